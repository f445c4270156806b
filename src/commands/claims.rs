//! Who wants which local port or socket: two that want the same one are told before either is bound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use crate::cluster::target::ports::{Address, LocalPort, PortSpec, RemotePort};

/// What has been asked for so far.
#[derive(Default)]
pub(super) struct Claims(Vec<Claim>);

struct Claim {
    place: Place,
    /// What a user calls it.
    label: String,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    Port(IpAddr, NonZeroU16),
    Socket(PathBuf),
}

/// Two mappings want the same.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{first} and {second} both listen on {place}: give one of them another local {kind}")]
pub(super) struct Collision {
    first: String,
    second: String,
    place: String,
    kind: &'static str,
}

impl Claims {
    /// Claims where `spec` of `owner` listens; `addresses` are for a spec without one. A port that only the pod can tell
    /// is `same` once it is known, and claims nothing before. Any free port never collides.
    ///
    /// # Errors
    /// Somebody else has claimed it.
    pub(super) fn claim(
        &mut self,
        owner: &str,
        spec: &PortSpec,
        addresses: &[Address],
        same: Option<NonZeroU16>,
    ) -> Result<(), Collision> {
        let label = format!("`{spec}` of {owner}");
        let places = places(spec, addresses, same);
        for place in &places {
            let first = self.0.iter().find(|claim| claim.place.overlaps(place));
            if let Some(Claim { label: first, .. }) = first {
                return Err(Collision {
                    first: first.clone(),
                    second: label,
                    place: place.to_string(),
                    kind: match place {
                        Place::Port(..) => "port",
                        Place::Socket(_) => "socket",
                    },
                });
            }
        }
        self.0.extend(places.into_iter().map(|place| Claim {
            place,
            label: label.clone(),
        }));
        Ok(())
    }
}

/// Whether only the pod or service can tell the local port.
pub(super) fn is_open(spec: &PortSpec) -> bool {
    spec.local == LocalPort::Same && matches!(spec.remote, RemotePort::Name(_))
}

fn places(spec: &PortSpec, addresses: &[Address], same: Option<NonZeroU16>) -> Vec<Place> {
    let port = match (&spec.local, &spec.remote) {
        (LocalPort::Number(port), _) => Some(*port),
        (LocalPort::Same, RemotePort::Number(port) | RemotePort::Host(_, port)) => Some(*port),
        (LocalPort::Same, RemotePort::Name(_) | RemotePort::Socket(_)) => same,
        (LocalPort::Random, _) => None,
        (LocalPort::Socket(path), _) => {
            // Without a current folder it stays as it is.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            return vec![Place::Socket(path)];
        }
    };
    let own = spec.address.map(|address| [address]);
    let addresses = own.as_ref().map_or(addresses, |own| own);
    let ips = addresses.iter().flat_map(|address| match address {
        Address::Localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Address::Ip(ip) => vec![*ip],
    });
    let place = |ip| Some(Place::Port(ip, port?));
    ips.filter_map(place).collect()
}

impl Place {
    /// Whether one of them can't be bound beside the other: 0.0.0.0 is all of IPv4, and :: all of IPv6.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Port(one, port), Self::Port(two, other)) => {
                let wild = one.is_unspecified() || two.is_unspecified();
                port == other && (one == two || wild && one.is_ipv4() == two.is_ipv4())
            }
            (one, two) => one == two,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(IpAddr::V6(ip), port) => write!(f, "[{ip}]:{port}"),
            Self::Port(ip, port) => write!(f, "{ip}:{port}"),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the second of two mappings is told; each may have an address list after a space.
    fn collide(one: &str, two: &str) -> Option<String> {
        let mut claims = Claims::default();
        let mut claim = |owner: &str, words: &str| {
            let (spec, addresses) = words.split_once(' ').unwrap_or((words, "localhost"));
            let addresses = addresses.split(',').map(|address| address.parse().unwrap());
            let addresses: Vec<Address> = addresses.collect();
            claims.claim(
                owner,
                &spec.parse().unwrap(),
                &addresses,
                NonZeroU16::new(443),
            )
        };
        claim("pod/a", one).unwrap();
        claim("@b", two).err().map(|error| error.to_string())
    }

    #[test]
    fn two_that_want_the_same_are_both_named() {
        for (one, two, place) in [
            ("80", "80", "127.0.0.1:80"),
            ("8080:80", "8080:81", "127.0.0.1:8080"),
            ("8080:80", "8080:db:5432", "127.0.0.1:8080"),
            ("80", "127.0.0.1:80:81", "127.0.0.1:80"),
            ("80", "[::1]:80:81", "[::1]:80"),
            ("80", "0.0.0.0:80:81", "0.0.0.0:80"),
            ("80 ::", "localhost:80:81", "[::1]:80"),
            ("80 10.0.0.1", "80 0.0.0.0", "0.0.0.0:80"),
            ("https", "443:80", "127.0.0.1:443"),
            ("unix:/a/x:1", "unix:/a/x:2", "unix:/a/x"),
            ("unix:/a/x:1", "unix:/a/./x:2", "unix:/a/x"),
        ] {
            let kind = if one.starts_with("unix") {
                "socket"
            } else {
                "port"
            };
            let spec = |words: &str| words.split(' ').next().unwrap().to_owned();
            assert_eq!(
                collide(one, two),
                Some(format!(
                    "`{}` of pod/a and `{}` of @b both listen on {place}: give one of them another local {kind}",
                    spec(one),
                    spec(two)
                ))
            );
        }
    }

    #[test]
    fn others_do_not_collide() {
        for (one, two) in [
            ("80", "81"),
            ("8080:80", "80"),
            (":80", ":80"),
            ("0:80", "80"),
            ("127.0.0.1:80:80", "127.0.0.2:80:80"),
            ("127.0.0.1:80:80", "[::1]:80:80"),
            ("0.0.0.0:80:80", "[::]:80:80"),
            ("80 0.0.0.0", "80 ::1"),
            ("unix:/a:1", "unix:/b:1"),
            ("80", "unix:/a:80"),
        ] {
            assert_eq!(collide(one, two), None, "{one} {two}");
        }
    }
}
