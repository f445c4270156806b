//! By which of two ways the sessions of a connection get into their pod: a login to the pod's own sshd ([`relay`](super::relay)), or a
//! command in a container. It is found out once for a connection, which keeps to its pod.
//!
//! The pod's owner can say it by an annotation; so does the user with a login (`root+pod.ns`: only an sshd has those) or a
//! container (`+pod.ns+app`). Otherwise the pod is asked: whose port 22 greets as SSH servers do has one.

use std::future::poll_fn;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use russh::keys::PrivateKey;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::timeout;

use super::audit;
use super::kubernetes::{Found, Refusal};
use super::name::Place;
use super::policy::{Backend, Grant, Record};
use super::relay::{
    Arrival, Authority, Credential, Duplex, Error, Pins, Settings, Subject, Target, Upstream,
};
use super::server::User;
use super::spool::{self, Quota};
use crate::cluster::target::Endpoint;
use crate::dial::PodStream;
use crate::splice::Far as _;
use crate::untrusted::printable;

/// `relay`, `exec`, or `off` for no sessions at all.
const WAY: &str = "kpf.dev/ssh";
/// The port of the pod's sshd.
const PORT: &str = "kpf.dev/ssh-port";
/// Whom to be there, where the user doesn't say.
const LOGIN: &str = "kpf.dev/ssh-login";
/// KubeVirt's label of pods that have a virtual machine; a command would run beside that.
const MACHINE: (&str, &str) = ("kubevirt.io", "virt-launcher");
/// Where an sshd is, unless the pod says so.
const SSH: NonZeroU16 = NonZeroU16::new(22).expect("it is not 0");
/// What an SSH server says first (RFC 4253 §4.2).
const GREETING: &[u8] = b"SSH-2.0-";
/// How long it may take to say it. Somebody waits for a prompt.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Characters of an annotation, or of a reason.
const SHOWN: usize = 300;

/// What the gateway logs in to pods with, and the host keys that they have shown.
#[derive(Debug)]
pub struct Logins {
    credentials: Vec<Source>,
    pins: Pins,
}

/// Where a credential for a login comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A certificate for each login.
    Authority(Authority),
    /// Always the same key.
    Key(Arc<PrivateKey>),
}

impl Logins {
    /// With these, in their order; the next one where a pod doesn't take the one before.
    #[must_use]
    pub fn new(credentials: Vec<Source>) -> Self {
        Self {
            credentials,
            pins: Pins::default(),
        }
    }
}

/// The way of one connection, once it is known.
pub struct Ways {
    logins: Option<Arc<Logins>>,
    limits: spool::Limits,
    quota: Quota,
    /// The connection's id.
    session: String,
    chosen: Arc<Mutex<Chosen>>,
}

#[derive(Default)]
enum Chosen {
    #[default]
    Nothing,
    Exec,
    Relay(Arc<Link>),
}

/// A way into a pod.
pub enum Way {
    /// By a login to its sshd.
    Relay(Arc<Link>),
    /// By commands in a container.
    Exec,
}

/// A login to the sshd of a pod. It ends with the last who has it.
pub struct Link {
    /// The connection.
    pub upstream: Upstream,
    /// Where it leads to, for events.
    pub place: Arc<audit::Place>,
    /// Run in the place of whatever is asked for, where the pod's sshd isn't told so by a certificate.
    pub forced: Option<String>,
}

/// Why there is no way.
#[derive(Debug)]
pub struct Denied {
    /// The pod, where it was found.
    pub place: Option<Arc<audit::Place>>,
    /// For the log.
    pub reason: String,
    /// For the user; fit to print.
    pub told: String,
}

impl Denied {
    fn new(place: &Place, reason: impl std::fmt::Display) -> Self {
        let told = format!("{place}: {reason}");
        Self {
            place: None,
            reason: told.clone(),
            told,
        }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        let told = refusal.to_string();
        Self {
            place: None,
            reason: told.clone(),
            told,
        }
    }
}

impl Ways {
    /// Without `logins` there is only one.
    pub(super) fn new(
        logins: Option<Arc<Logins>>,
        limits: spool::Limits,
        quota: Quota,
        session: String,
    ) -> Self {
        Self {
            logins,
            limits,
            quota,
            session,
            chosen: Arc::default(),
        }
    }
}

/// Why a pod takes no sessions, or none in a container: its owner says so. Fit to print.
#[must_use]
pub fn closed(place: &Place, found: &Found) -> Option<String> {
    match found.annotations.get(WAY).map(String::as_str) {
        Some("off") => Some(format!(
            "{place}: the pod takes no sessions (its annotation {WAY} is \"off\")"
        )),
        Some("relay") => Some(format!(
            "{place}: the pod takes sessions by its own sshd only (its annotation {WAY} is \"relay\"), and the gateway may not or cannot log in there"
        )),
        Some("exec") => None,
        _ => is_machine(found).then(|| {
            format!(
                "{place}: a session in the container would be beside the virtual machine, not in it, and the gateway may not or cannot log in there"
            )
        }),
    }
}

fn is_machine(found: &Found) -> bool {
    found.labels.get(MACHINE.0).map(String::as_str) == Some(MACHINE.1)
}

/// Finds the way for a user at the place of their connection, and logs in where that is it. Cancel-safe. Where it is a
/// command in a container, the policy was not asked for that yet.
///
/// # Errors
/// There is none, or not the one that was asked for.
pub async fn choose(user: &User, place: &Place) -> Result<Way, Denied> {
    let Some(grant) = user.grant(place) else {
        let told = Refusal::NoPod(place.to_string()).to_string();
        return Err(Denied {
            place: None,
            reason: "no policy allows anything there".to_owned(),
            told,
        });
    };
    // What goes through the pod's own sshd is not recorded.
    match (grant.record, place.login()) {
        (Record::Required, Some(login)) => {
            return Err(Denied::new(
                place,
                format_args!(
                    "sessions there have to be recorded, which the gateway does in containers only, so nobody can be {login} there: leave `{login}+` out"
                ),
            ));
        }
        (Record::Required, None) => return Ok(Way::Exec),
        (Record::BestEffort, None) if grant.allows(Backend::Exec) => return Ok(Way::Exec),
        (Record::BestEffort | Record::Off, _) => {}
    }
    let logins = match (&user.ways.logins, place.login()) {
        (Some(logins), _) if grant.allows(Backend::Relay) => logins,
        (_, None) => return Ok(Way::Exec),
        // Another user than was asked for is worse than none.
        (None, Some(login)) if grant.allows(Backend::Relay) => {
            return Err(Denied::new(
                place,
                format_args!(
                    "this gateway logs in to no pod's sshd (its configuration has no `relay`), so nobody can be {login} there: leave `{login}+` out for a session in a container"
                ),
            ));
        }
        (_, Some(login)) => {
            return Err(Denied::new(
                place,
                format_args!(
                    "the gateway's policy allows no login to the pod's sshd, so nobody can be {login} there: leave `{login}+` out"
                ),
            ));
        }
    };
    let names_container = place.login().is_none() && place.container().is_some();
    if names_container && grant.allows(Backend::Exec) {
        return Ok(Way::Exec);
    }
    // Others of the same connection wait for the first.
    let chosen = user.ways.chosen.clone().lock_owned().await;
    let choice = Choice {
        user,
        place,
        grant,
        logins,
    };
    choice.make(chosen).await
}

struct Choice<'a> {
    user: &'a User,
    place: &'a Place,
    grant: Grant,
    logins: &'a Logins,
}

impl Choice<'_> {
    async fn make(&self, mut chosen: OwnedMutexGuard<Chosen>) -> Result<Way, Denied> {
        let was_relay = match &*chosen {
            Chosen::Exec => return Ok(Way::Exec),
            Chosen::Relay(link) if !link.upstream.is_over() => return Ok(Way::Relay(link.clone())),
            Chosen::Relay(_) => true,
            Chosen::Nothing => false,
        };
        let (place, grant) = (self.place, &self.grant);
        let found = self.user.reach.container(place).await?;
        let annotated = |key| found.annotations.get(key).map(String::as_str);
        let must = match annotated(WAY) {
            Some("relay") => true,
            Some("exec") if place.login().is_some() => {
                let reason = format_args!(
                    "the pod takes sessions in its containers only (its annotation {WAY} is \"exec\"): leave the login out"
                );
                return Err(Denied::new(place, reason));
            }
            // `closed` has the words for it.
            Some("exec" | "off") => {
                *chosen = Chosen::Exec;
                return match closed(place, &found) {
                    Some(told) => Err(Denied {
                        place: None,
                        reason: told.clone(),
                        told,
                    }),
                    None => Ok(Way::Exec),
                };
            }
            _ => {
                place.login().is_some()
                    || is_machine(&found)
                    || !grant.allows(Backend::Exec)
                    || was_relay
            }
        };
        match self.relay(&found, must).await? {
            Some(link) => {
                let link = Arc::new(link);
                *chosen = Chosen::Relay(link.clone());
                Ok(Way::Relay(link))
            }
            None => {
                *chosen = Chosen::Exec;
                Ok(Way::Exec)
            }
        }
    }

    /// None where it needn't be this way, and can't.
    async fn relay(&self, found: &Found, must: bool) -> Result<Option<Link>, Denied> {
        let place = self.place;
        let annotated = |key| found.annotations.get(key).map(String::as_str);
        let port = match annotated(PORT).map(str::parse) {
            None => SSH,
            Some(Ok(port)) => port,
            Some(Err(_)) => {
                let reason = format_args!("the pod's annotation {PORT} is no port");
                return Err(Denied::new(place, reason));
            }
        };
        let login = self.grant.login(place.login(), annotated(LOGIN));
        let Some(login) = login else {
            return match must {
                true => Err(Denied::new(
                    place,
                    "the gateway's policy does not allow this login there",
                )),
                false => Ok(None),
            };
        };
        let target = Arc::new(audit::Place {
            cluster: place.cluster().to_owned(),
            namespace: found.pod.namespace.clone(),
            pod: found.pod.name.clone(),
            uid: found.pod.uid.clone(),
            container: None,
            backend: Some("relay"),
            login: Some(login.to_owned()),
        });
        let denied = |told: String| Denied {
            place: Some(target.clone()),
            reason: told.clone(),
            told,
        };
        let mut first = match self.open(found, port).await {
            Ok(stream) => Some(stream),
            Err(reason) if must => return Err(denied(reason)),
            Err(_) => return Ok(None),
        };
        if let Some(stream) = &mut first
            && !must
            && !greets(stream).await
        {
            return Ok(None);
        }
        // The name could have become another pod's between the two requests.
        let confirmed = self.user.reach.confirm(place, &found.pod).await;
        confirmed.map_err(|refusal| denied(refusal.to_string()))?;
        let mut refused = None;
        for source in &self.logins.credentials {
            let stream = match first.take() {
                Some(stream) => stream,
                None => self.open(found, port).await.map_err(denied)?,
            };
            match self.log_in(found, port, login, source, stream).await {
                Ok((upstream, forced)) => {
                    return Ok(Some(Link {
                        upstream,
                        place: target,
                        forced,
                    }));
                }
                // The next one may open it.
                Err(error @ (Error::NotTrusted { .. } | Error::KeyRefused { .. })) => {
                    refused.get_or_insert(error);
                }
                Err(error) => {
                    if let Error::HostKeyChanged(_) = error {
                        tracing::warn!(%place, %error, "a pod's sshd is not the one it was");
                    }
                    return Err(denied(format!("{place}: {error}")));
                }
            }
        }
        let reason = refused.map_or_else(String::new, |error| error.to_string());
        Err(denied(format!("{place}: {reason}")))
    }

    async fn open(&self, found: &Found, port: NonZeroU16) -> Result<PodStream, String> {
        let route = self.user.reach.route(self.place, &found.pod).await;
        let route = route.map_err(|refusal| refusal.to_string())?;
        let opened = route.open(&Endpoint::Port(port)).await;
        opened.map_err(|error| {
            let error = printable(&error.to_string(), SHOWN);
            format!("{}: {error}", self.place)
        })
    }

    async fn log_in(
        &self,
        found: &Found,
        port: NonZeroU16,
        login: &str,
        source: &Source,
        stream: PodStream,
    ) -> Result<(Upstream, Option<String>), Error> {
        let caps = &self.user.login.caps;
        let (credential, forced) = match source {
            Source::Authority(authority) => {
                let subject = Subject {
                    login,
                    user: &self.user.login.identity.user,
                    session: &self.user.ways.session,
                    caps,
                };
                let issued = authority.issue(subject, SystemTime::now());
                (
                    issued.map_err(|error| Error::Failed(error.to_string()))?,
                    None,
                )
            }
            Source::Key(key) => (Credential::Key(key.clone()), caps.force_command.clone()),
        };
        let target = Target {
            uid: found.pod.uid.clone().unwrap_or_default(),
            port: port.get(),
            login: login.to_owned(),
        };
        let settings = Settings {
            pins: self.logins.pins.clone(),
            limits: self.user.ways.limits.clone(),
            quota: self.user.ways.quota.clone(),
        };
        let connected = Upstream::connect(Duplex(stream), target, credential, settings).await;
        let (upstream, arrivals) = connected?;
        refuse_all(arrivals);
        Ok((upstream, forced))
    }
}

/// Nothing is granted to a pod that it could open a channel for: without a receiver they are refused.
fn refuse_all(arrivals: mpsc::Receiver<Arrival>) {
    drop(arrivals);
}

/// Whether an SSH server is there. What it says stays in the stream.
async fn greets(stream: &mut PodStream) -> bool {
    let first = poll_fn(|cx| {
        stream.poll_chunks(cx).map_ok(|chunks| {
            let bytes = chunks.iter().flat_map(|chunk| chunk.iter().copied());
            bytes.take(GREETING.len()).collect::<Vec<_>>()
        })
    });
    match timeout(PATIENCE, first).await {
        // Less than all of it is the beginning of it.
        Ok(Ok(said)) => !said.is_empty() && GREETING.starts_with(&said),
        Ok(Err(_)) | Err(_) => false,
    }
}
