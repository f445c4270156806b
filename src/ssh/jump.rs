//! A channel to a port (`ssh -J`, `-W`, `-L`, `-D`) becomes a stream of a port-forward to a pod.
//!
//! The host is a place, never a name for the DNS; what a port-forward can't reach by construction, nobody reaches. For
//! whoever has logged in to a pod, the loopback addresses are that pod's.

use std::future::poll_fn;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::audit::{self, Exit, Kind};
use super::kubernetes::Refusal;
use super::name::{Destination, Place};
use super::policy::Backend;
use super::relayed;
use super::server::{Channel, Journal, Opening, Refused, User};
use super::way::{self, Link, Way};
use crate::dial::PodStream;
use crate::splice::{Ends, Far as _, splice};
use crate::tunnel::Failure;
use crate::untrusted::printable;

/// Where servers speak first: they are waited for, so that a refusal is told as one.
const SSH: u16 = 22;
/// How long an SSH server may take to greet before the channel is opened all the same.
const GREETING: Duration = Duration::from_secs(2);
/// How long others are given to refuse. A refusal takes a round trip to the node; what comes later ends the open channel.
const REFUSAL: Duration = Duration::from_millis(200);
/// Characters of a reason; clients show it on one line.
const SHOWN: usize = 300;

/// Serves one channel to its end.
pub(super) async fn serve(
    user: &User,
    opening: Opening,
    host: &str,
    port: NonZeroU16,
    from: (String, u32),
) {
    let gone = opening.gone().clone();
    let journal = opening.meter().journal().clone();
    let (ctype, dest) = ("direct-tcpip".to_owned(), Some(format!("{host}:{port}")));
    let link = tokio::select! {
        link = relaying(user, host, port) => link,
        () = gone.cancelled() => return,
    };
    if let Some(link) = link {
        return relayed::port(user, &link, opening, (host, port.get()), from).await;
    }
    let serving = async {
        match connect(user, &journal, host, port).await {
            Ok(Connected {
                stream,
                journal,
                cluster,
            }) => {
                journal.note(Kind::ChannelOpen { ctype, dest });
                let _open = user.metrics.session("jump", &cluster);
                opening.meter().count_for(&user.metrics, "jump");
                carry(opening.accept().await, stream, &journal).await;
            }
            Err(refused) => {
                let reason = refused.to_string();
                journal.note(Kind::ChannelDeny {
                    ctype,
                    dest,
                    reason,
                });
                opening.refuse(refused).await;
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = gone.cancelled() => {}
    }
}

/// The login to the sshd of the connection's own pod, where that one is to connect: to what is the pod's own, and to what
/// the policy lists for it. Any other host is a place.
async fn relaying(user: &User, host: &str, port: NonZeroU16) -> Option<Arc<Link>> {
    let caps = &user.login.caps;
    let Ok(Destination::Place(place)) = &user.destination else {
        return None;
    };
    let grant = user.grant(place)?;
    let may = caps.port_forwarding && caps.force_command.is_none();
    if !may || !grant.allows_forward(host, port.get()) {
        return None;
    }
    match way::choose(user, place).await {
        Ok(Way::Relay(link)) => Some(link),
        // The port is reached without it, or the same reason is met again.
        Ok(Way::Exec) | Err(_) => None,
    }
}

/// A stream to a pod, and the events that are about it.
struct Connected {
    stream: PodStream,
    journal: Journal,
    cluster: String,
}

async fn connect(
    user: &User,
    journal: &Journal,
    host: &str,
    port: NonZeroU16,
) -> Result<Connected, Refused> {
    let caps = &user.login.caps;
    if !caps.port_forwarding || caps.force_command.is_some() {
        let reason = "this key may not forward";
        return Err(Refused::Prohibited(reason.to_owned()));
    }
    let place = place(user, host)?;
    let failed = |reason: String| Refused::Failed(printable(&reason, SHOWN));
    let deny = |reason: &str| {
        user.metrics.target_error("denied");
        journal.note(Kind::TargetDeny {
            name: host.to_owned(),
            reason: reason.to_owned(),
        });
    };
    let hidden = || failed(Refusal::NoPod(place.to_string()).to_string());
    let grant = user.grant(&place);
    let Some(grant) = grant else {
        deny("no policy allows anything there");
        return Err(hidden());
    };
    let may = match is_loopback(host) {
        // What a session in the container could reach, it may reach from here too.
        true => grant.allows_forward(host, port.get()),
        false => grant.allows(Backend::Jump),
    };
    if !may {
        deny("the policy allows no jump there");
        return Err(Refused::Prohibited(format!(
            "{place}: the gateway's policy allows no jump there"
        )));
    }
    let refused = |refusal: Refusal| {
        deny(&refusal.to_string());
        failed(refusal.to_string())
    };
    let found = user.reach.port(&place, port).await;
    let (pod, endpoint) = found.map_err(refused)?;
    let journal = journal.about(|about| {
        about.place = Some(Arc::new(audit::Place {
            cluster: place.cluster().to_owned(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            backend: Some("jump"),
            ..audit::Place::default()
        }));
    });
    journal.note(Kind::TargetResolve {
        name: host.to_owned(),
    });
    let route = user.reach.route(&place, &pod).await;
    let route = route.map_err(refused)?;
    let opened = route.open(&endpoint).await;
    let mut stream = opened.map_err(|error| failed(format!("{place}: {error}")))?;
    let patience = match port.get() {
        SSH => GREETING,
        _ => REFUSAL,
    };
    let word = poll_fn(|cx| stream.poll_chunks(cx).map_ok(drop));
    if let Ok(Err(error)) = timeout(patience, word).await {
        return Err(failed(match Failure::of(&error) {
            // The runtimes' words for it fill a page.
            Some(Failure::Refused(_)) => {
                format!("{place} port {port}: connection refused, nothing listens there")
            }
            _ => format!("{place} port {port}: {error}"),
        }));
    }
    // The name could have become another pod's between the two requests.
    user.reach.confirm(&place, &pod).await.map_err(refused)?;
    let begun = journal.commit(Kind::SessionStart {}).await;
    begun.map_err(|error| failed(error.to_string()))?;
    Ok(Connected {
        stream,
        journal,
        cluster: place.cluster().to_owned(),
    })
}

/// Where a host leads to.
fn place(user: &User, host: &str) -> Result<Place, Refused> {
    if !is_loopback(host) {
        let place = Place::from_host(host, &user.clusters);
        return place.map_err(|error| Refused::Prohibited(error.to_string()));
    }
    match &user.destination {
        Ok(Destination::Place(place)) => Ok(place.clone()),
        Ok(Destination::BuiltIn) => Err(Refused::Prohibited(
            "there is nothing on the gateway's own ports: log in as OBJECT.NAMESPACE, or name the pod".to_owned(),
        )),
        Err(error) => Err(Refused::Prohibited(error.to_string())),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Copies until both sides have ended.
async fn carry(channel: Channel, stream: PodStream, journal: &Journal) {
    let ends = stream.ends(Ends {
        // A channel loses nothing by being closed.
        linger: Duration::ZERO,
        ..Ends::SOCKET
    });
    let Channel {
        input,
        output,
        gone,
        reading: _reading,
        ..
    } = channel;
    let copying = splice(input, output.stdout(), stream, ends);
    let reason = tokio::select! {
        spliced = copying => match spliced.end {
            Ok(()) => "ended".to_owned(),
            Err(error) => error.to_string(),
        },
        () = gone.cancelled() => "closed by the client".to_owned(),
    };
    journal.note(output.meter().session_end(&reason, Exit::Unknown));
    output.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_what_everybody_calls_so() {
        for host in ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "localhost.localdomain",
            "0.0.0.0",
            "::",
            "2130706433",
            "127.1",
            "10.0.0.1",
            "web.shop",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
