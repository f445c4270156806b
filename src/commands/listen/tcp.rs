//! Local ports: binding them as kubectl does, except that a port that can't be had is an error.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::{BACKLOG, ListenError};
use crate::cluster::target::ports::Address;

/// Tries to find a random port that is free in both families.
const RANDOM_TRIES: usize = 16;

/// A listener, and where it is.
type Bound = (SocketAddr, TcpListener);

/// Listens on `port`, or on any free one, the same at all addresses. `lenient` lets `localhost` do with one of its
/// two addresses whatever the other one's trouble is, as kubectl does.
pub(super) fn listen(
    addresses: &[Address],
    port: Option<NonZeroU16>,
    lenient: bool,
) -> Result<Vec<Bound>, ListenError> {
    let places = places(addresses);
    let Some(port) = port else {
        let mut tries = 0;
        loop {
            match listen_at(&places, 0, lenient) {
                // The port that was free for the first address is taken at another one.
                Err(error) if error.is_taken() && tries < RANDOM_TRIES => tries += 1,
                other => return other,
            }
        }
    };
    listen_at(&places, port.get(), lenient)
}

/// An address to bind, and whether it may be missing: `localhost` stands for two, of which one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ip: IpAddr,
    optional: bool,
}

/// In kubectl's order, which is that of the texts. An address that is given itself is no longer optional.
fn places(addresses: &[Address]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for address in addresses {
        let (ips, optional) = match address {
            Address::Localhost => (
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                true,
            ),
            Address::Ip(ip) => (vec![*ip], false),
        };
        for ip in ips {
            match places.iter_mut().find(|place| place.ip == ip) {
                Some(place) => place.optional &= optional,
                None => places.push(Place { ip, optional }),
            }
        }
    }
    places.sort_by_key(|place| place.ip.to_string());
    places
}

fn listen_at(places: &[Place], mut port: u16, lenient: bool) -> Result<Vec<Bound>, ListenError> {
    let mut listeners: Vec<Bound> = Vec::new();
    let mut missing = None;
    for place in places {
        let address = SocketAddr::new(place.ip, port);
        match bind(address).and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((bound, listener)) => {
                port = bound.port();
                listeners.push((bound, listener));
            }
            Err(source) => {
                let error = ListenError::Port { address, source };
                if !(place.optional && (lenient || error.is_absent())) {
                    return Err(error);
                }
                missing = Some(error);
            }
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // As Go does: a port whose last connections are in TIME_WAIT is free. On Windows it would mean something else.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `::` is all of IPv6 and not of IPv4, which may be asked for besides.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(listeners: &[Bound]) -> Vec<u16> {
        listeners
            .iter()
            .map(|(address, _)| address.port())
            .collect()
    }

    #[test]
    fn localhost_is_both_families_and_an_explicit_address_is_mandatory() {
        let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        let place = |ip, optional| Place { ip, optional };
        assert_eq!(
            places(&[Address::Localhost]),
            [place(v4, true), place(v6, true)]
        );
        assert_eq!(
            places(&[Address::Localhost, Address::Ip(v4)]),
            [place(v4, false), place(v6, true)]
        );
    }

    #[tokio::test]
    async fn a_random_port_is_the_same_at_all_addresses() {
        let listeners = listen(&[Address::Localhost], None, false).unwrap();
        let ports = ports(&listeners);
        assert!(
            ports.iter().all(|port| *port != 0 && *port == ports[0]),
            "{ports:?}"
        );
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_even_if_the_other_family_is_free() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = NonZeroU16::new(taken.local_addr().unwrap().port());
        let error = listen(&[Address::Localhost], port, false).unwrap_err();
        assert!(error.is_taken(), "{error}");
        if let Ok(listeners) = listen(&[Address::Localhost], port, true) {
            assert_eq!(listeners.len(), 1, "kubectl's way does with ::1");
        }
    }
}
