//! The channels of a user whose pod has an sshd: each has one there, opened before the user's is.

use std::sync::Arc;

use super::audit::{Exit, Kind};
use super::config::Limits;
use super::name::Destination;
use super::relay::{self, Carried, End, Far, Gone, OpenError, carry};
use super::server::{Channel, Journal, Opening, Refused, Relayed, User};
use super::session::RelayGate;
use super::way::{self, Link, Way};

/// Serves a session to its end.
pub(super) async fn session(user: &User, link: &Link, opening: Opening, limits: &Limits) {
    let journal = resolved(user, link, &opening);
    if let Err(error) = journal.commit(Kind::SessionStart {}).await {
        return opening.refuse(Refused::Failed(error.to_string())).await;
    }
    let gone = opening.gone().clone();
    let opened = tokio::select! {
        opened = link.upstream.session() => opened,
        () = gone.cancelled() => return ended(&journal, &opening, "closed by the client"),
    };
    let far = match opened {
        Ok(far) => far,
        Err(error) => return refuse(&journal, opening, error).await,
    };
    let gate = RelayGate {
        pty: user.login.caps.pty,
        forced: link.forced.clone(),
        longest_command: limits.command,
        longest_value: limits.variable,
    };
    let relayed = Relayed {
        gate: Arc::new(gate),
        requests: far.requests(),
    };
    let channel = opening.relay(relayed).await;
    serve(far, relay::Kind::Session, channel, &journal).await;
}

/// Serves a connection that the pod's sshd makes, to its end. Whether it may was asked before.
pub(super) async fn port(
    user: &User,
    link: &Link,
    opening: Opening,
    (host, port): (&str, u16),
    from: (String, u32),
) {
    let far = link
        .upstream
        .direct_tcpip(host.to_owned(), port, from.0, from.1);
    let destination = format!("{host}:{port}");
    forward(user, link, opening, "direct-tcpip", destination, far).await;
}

/// Serves a connection to a socket of the pod, to its end.
pub(super) async fn socket(user: &User, opening: Opening, path: String) {
    let gone = opening.gone().clone();
    let ctype = "direct-streamlocal@openssh.com";
    let found = tokio::select! {
        found = of_socket(user, &path) => found,
        () = gone.cancelled() => return,
    };
    match found {
        Ok(link) => {
            let far = link.upstream.direct_streamlocal(path.clone());
            forward(user, &link, opening, ctype, path, far).await;
        }
        Err(reason) => {
            opening.meter().journal().note(Kind::ChannelDeny {
                ctype: ctype.to_owned(),
                dest: Some(path),
                reason: reason.clone(),
            });
            opening.refuse(Refused::Prohibited(reason)).await;
        }
    }
}

async fn of_socket(user: &User, path: &str) -> Result<Arc<Link>, String> {
    let caps = &user.login.caps;
    if !caps.port_forwarding || caps.force_command.is_some() {
        return Err("this key may not forward".to_owned());
    }
    let Ok(Destination::Place(place)) = &user.destination else {
        return Err("there are no sockets here: log in as OBJECT.NAMESPACE".to_owned());
    };
    let may = user.grant(place).map(|grant| grant.allows_socket(path));
    if may == Some(false) {
        return Err("the gateway's policy does not allow this socket".to_owned());
    }
    match way::choose(user, place).await {
        Ok(Way::Relay(link)) => Ok(link),
        Ok(Way::Exec) => Err("sockets are reached by a pod's own sshd only".to_owned()),
        Err(denied) => Err(denied.told),
    }
}

async fn forward(
    user: &User,
    link: &Link,
    opening: Opening,
    ctype: &str,
    destination: String,
    far: impl Future<Output = Result<Far, OpenError>>,
) {
    let journal = resolved(user, link, &opening);
    if let Err(error) = journal.commit(Kind::SessionStart {}).await {
        return opening.refuse(Refused::Failed(error.to_string())).await;
    }
    let gone = opening.gone().clone();
    let opened = tokio::select! {
        opened = far => opened,
        () = gone.cancelled() => return ended(&journal, &opening, "closed by the client"),
    };
    match opened {
        Ok(far) => {
            journal.note(Kind::ChannelOpen {
                ctype: ctype.to_owned(),
                dest: Some(destination),
            });
            let channel = opening.accept().await;
            serve(far, relay::Kind::Forward, channel, &journal).await;
        }
        Err(error) => {
            journal.note(Kind::ChannelDeny {
                ctype: ctype.to_owned(),
                dest: Some(destination),
                reason: error.to_string(),
            });
            refuse(&journal, opening, error).await;
        }
    }
}

/// The events of a channel, which is now known to lead into the pod.
fn resolved(user: &User, link: &Link, opening: &Opening) -> Journal {
    let journal = opening.meter().journal();
    let journal = journal.about(|about| about.place = Some(link.place.clone()));
    journal.note(Kind::TargetResolve {
        name: user.name.clone(),
    });
    journal
}

fn ended(journal: &Journal, opening: &Opening, reason: &str) {
    journal.note(opening.meter().session_end(reason, Exit::Unknown));
}

/// The user's client gets the pod's own words.
async fn refuse(journal: &Journal, opening: Opening, error: OpenError) {
    ended(journal, &opening, &error.to_string());
    match error {
        OpenError::Refused(reason) => opening.refuse_as(reason).await,
        OpenError::Gone(reason) => opening.refuse(Refused::Failed(reason)).await,
    }
}

async fn serve(far: Far, kind: relay::Kind, channel: Channel, journal: &Journal) {
    let Channel {
        input,
        output,
        gone,
        connection,
        reading,
    } = channel;
    // It writes through the valve.
    drop(reading);
    let gone = Gone {
        channel: gone,
        connection,
    };
    let carried = carry(far, kind, input, output.clone(), gone).await;
    let Carried {
        status,
        signal,
        end,
        ..
    } = carried;
    let exit = match (status, signal) {
        (Some(status), _) => Exit::Code(status),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    };
    let reason = match end {
        End::Closed => "ended".to_owned(),
        End::Left => "closed by the client".to_owned(),
        End::CutOff(reason) => reason,
    };
    journal.note(output.meter().session_end(&reason, exit));
    output.close().await;
}
