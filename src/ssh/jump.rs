//! A channel to a port (`ssh -J`, `-W`, `-L`, `-D`) becomes a stream of a port-forward to a pod.
//!
//! The host is a place, never a name for the DNS; what a port-forward can't reach by construction, nobody reaches. For
//! whoever has logged in to a pod, the loopback addresses are that pod's.

use std::future::poll_fn;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use tokio::time::timeout;

use super::name::{Destination, Place};
use super::server::{Channel, Opening, Refused, User};
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
pub(super) async fn serve(user: &User, opening: Opening, host: &str, port: NonZeroU16) {
    let gone = opening.gone().clone();
    let serving = async {
        match connect(user, host, port).await {
            Ok(stream) => carry(opening.accept().await, stream).await,
            Err(refused) => opening.refuse(refused).await,
        }
    };
    tokio::select! {
        () = serving => {}
        () = gone.cancelled() => {}
    }
}

async fn connect(user: &User, host: &str, port: NonZeroU16) -> Result<PodStream, Refused> {
    let caps = &user.login.caps;
    if !caps.port_forwarding || caps.force_command.is_some() {
        let reason = "this key may not forward";
        return Err(Refused::Prohibited(reason.to_owned()));
    }
    let place = place(user, host)?;
    let failed = |reason: String| Refused::Failed(printable(&reason, SHOWN));
    let found = user.reach.port(&place, port).await;
    let (pod, endpoint) = found.map_err(|refusal| failed(refusal.to_string()))?;
    let route = user.reach.route(&place, &pod).await;
    let route = route.map_err(|refusal| failed(refusal.to_string()))?;
    let opened = route.open(&endpoint).await;
    let mut stream = opened.map_err(|error| failed(format!("{place}: {error}")))?;
    let patience = match port.get() {
        SSH => GREETING,
        _ => REFUSAL,
    };
    let word = poll_fn(|cx| stream.poll_chunks(cx).map_ok(drop));
    match timeout(patience, word).await {
        Ok(Err(error)) => Err(failed(match Failure::of(&error) {
            // The runtimes' words for it fill a page.
            Some(Failure::Refused(_)) => {
                format!("{place} port {port}: connection refused, nothing listens there")
            }
            _ => format!("{place} port {port}: {error}"),
        })),
        Ok(Ok(())) | Err(_) => Ok(stream),
    }
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
async fn carry(channel: Channel, stream: PodStream) {
    let ends = stream.ends(Ends {
        // A channel loses nothing by being closed.
        linger: Duration::ZERO,
        ..Ends::SOCKET
    });
    let stdout = channel.output.stdout();
    let spliced = splice(channel.input, stdout, stream, ends).await;
    tracing::debug!(
        sent = spliced.sent,
        received = spliced.received,
        end = ?spliced.end,
        "a jump has ended"
    );
    channel.output.close().await;
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
