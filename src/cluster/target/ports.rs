//! Ports: how they are written, and which port of which pod is meant.
//!
//! `[[ADDR:]LOCAL:]REMOTE`, as kubectl reads it, with three differences: `8080:80:90` is an error (kubectl takes it
//! for `8080`), an address may stand before a local port, and REMOTE may be `HOST:PORT` or `unix:/PATH`, seen from a
//! container.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::{TargetError, is_label};

/// One port to forward: where to listen and where it leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSpec {
    /// Where to listen; where none was written, `--address` counts.
    pub address: Option<Address>,
    /// The local port.
    pub local: LocalPort,
    /// The port of the pod or service.
    pub remote: RemotePort,
}

/// The local half of a [`PortSpec`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LocalPort {
    /// The number that the remote port turns out to have; for a service that is the service's port, not the pod's.
    Same,
    /// Any free port.
    Random,
    /// This one.
    Number(NonZeroU16),
}

/// The remote half of a [`PortSpec`], and the PORT of `connect`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RemotePort {
    /// By number; a pod need not declare it, a service must.
    Number(NonZeroU16),
    /// By the name that the pod or service gives it.
    Name(String),
    /// A port of a host that the pod can reach.
    Host(String, NonZeroU16),
    /// A unix socket in a container, by its absolute path.
    Socket(String),
}

impl RemotePort {
    /// Whether it is a port of the pod or service itself.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Name(_))
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Address {
    /// 127.0.0.1 and ::1, whichever of them the machine has.
    Localhost,
    /// This one, or it is an error.
    Ip(IpAddr),
}

impl FromStr for PortSpec {
    type Err = TargetError;

    fn from_str(spec: &str) -> Result<Self, TargetError> {
        let (address, ports) = split_address(spec)?;
        let (local, remote) = match ports.split_once(':') {
            Some(("unix", _)) => (None, ports),
            Some((local, remote)) => (Some(local), remote),
            None if address.is_some() => return Err(invalid(spec)),
            None => (None, ports),
        };
        let local = match local {
            None => LocalPort::Same,
            // kubectl: a name on both sides stands for its number on both sides
            Some(local) if local == remote && is_port_name(local) => LocalPort::Same,
            Some(local) => local_port(local)?,
        };
        let remote: RemotePort = remote.parse().map_err(|error| match remote.contains(':') {
            true => invalid(spec),
            false => error,
        })?;
        match remote {
            RemotePort::Socket(_) if local == LocalPort::Same => Err(TargetError::Usage(format!(
                "a socket has no number to listen on: write LOCAL:{spec}, or :{spec} for any free port"
            ))),
            remote => Ok(Self {
                address,
                local,
                remote,
            }),
        }
    }
}

impl FromStr for RemotePort {
    type Err = TargetError;

    fn from_str(port: &str) -> Result<Self, TargetError> {
        if port.is_empty() {
            return Err(TargetError::Usage("remote port cannot be empty".to_owned()));
        }
        if let Some(path) = port.strip_prefix("unix:") {
            // The kernel's bound, less the zero at its end.
            return match path.starts_with('/') && path.len() < 108 && !path.contains('\0') {
                true => Ok(Self::Socket(path.to_owned())),
                false => Err(TargetError::Usage(format!(
                    "'{port}' is no socket: write unix: and its absolute path, of at most 107 bytes"
                ))),
            };
        }
        if let Some((host, number)) = port.rsplit_once(':') {
            return host_and_port(host, number).ok_or_else(|| invalid(port));
        }
        if is_port_name(port) {
            return Ok(Self::Name(port.to_owned()));
        }
        match number(port) {
            Some(0) => Err(TargetError::Usage("remote port must be > 0".to_owned())),
            Some(number) => Ok(Self::Number(
                NonZeroU16::new(number).expect("0 is handled above"),
            )),
            None => Err(TargetError::Usage(format!(
                "error parsing remote port '{port}': it is neither a number from 1 to 65535 nor the name of a port"
            ))),
        }
    }
}

impl FromStr for Address {
    type Err = TargetError;

    fn from_str(address: &str) -> Result<Self, TargetError> {
        match address {
            "localhost" => Ok(Self::Localhost),
            ip => match ip.parse() {
                Ok(ip) => Ok(Self::Ip(ip)),
                Err(_) => Err(TargetError::Usage(format!("{ip} is not a valid IP"))),
            },
        }
    }
}

/// As it was written.
impl fmt::Display for RemotePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Cuts the address off, which is there if it is bracketed or if two colons follow it.
fn split_address(spec: &str) -> Result<(Option<Address>, &str), TargetError> {
    if let Some(rest) = spec.strip_prefix('[') {
        let (address, ports) = rest.split_once("]:").ok_or_else(|| invalid(spec))?;
        let ip = address
            .parse()
            .map_err(|_| TargetError::Usage(format!("{address} is not a valid IP")))?;
        return Ok((Some(Address::Ip(IpAddr::V6(ip))), ports));
    }
    match spec.split_once(':') {
        // A local port, which a host or a socket may follow.
        Some((local, _)) if local.bytes().all(|byte| byte.is_ascii_digit()) => Ok((None, spec)),
        Some(("unix", _)) => Ok((None, spec)),
        Some((address, ports)) if ports.contains(':') => match address.parse() {
            Ok(address) => Ok((Some(address), ports)),
            Err(_) => Err(invalid(spec)),
        },
        _ => Ok((None, spec)),
    }
}

fn local_port(port: &str) -> Result<LocalPort, TargetError> {
    if port.is_empty() {
        return Ok(LocalPort::Random);
    }
    match number(port) {
        Some(number) => Ok(NonZeroU16::new(number).map_or(LocalPort::Random, LocalPort::Number)),
        None => Err(TargetError::Usage(format!(
            "error parsing local port '{port}': it is no number from 0 to 65535"
        ))),
    }
}

/// A name or an address, but no bare number: that is a typing error in a port.
fn host_and_port(host: &str, port: &str) -> Option<RemotePort> {
    let port = NonZeroU16::new(number(port)?)?;
    let host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().ok()?.to_string(),
        None => {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let begins_well = host.starts_with(|first: char| first.is_ascii_alphanumeric());
            let is_number = host.bytes().all(|byte| byte.is_ascii_digit());
            if !begins_well || is_number || !host.bytes().all(is_name) || host.len() > 253 {
                return None;
            }
            host.to_owned()
        }
    };
    Some(RemotePort::Host(host, port))
}

fn invalid(spec: &str) -> TargetError {
    TargetError::Usage(format!(
        "invalid port format '{spec}': write REMOTE, LOCAL:REMOTE or ADDR:LOCAL:REMOTE, with a port, HOST:PORT or unix:/PATH as REMOTE"
    ))
}

/// Digits only: Rust would take a plus sign, which Go's ParseUint does not.
fn number(word: &str) -> Option<u16> {
    word.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| word.parse().ok())
        .flatten()
}

/// A label with a letter in it; a service's port may have more than the 15 characters of a container's.
fn is_port_name(word: &str) -> bool {
    is_label(word) && word.bytes().any(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonzero(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    #[test]
    fn every_form_of_a_port_is_read() {
        let number = |number| RemotePort::Number(nonzero(number));
        let name = |name: &str| RemotePort::Name(name.to_owned());
        let local = |number| LocalPort::Number(nonzero(number));
        let host = |host: &str, port| RemotePort::Host(host.to_owned(), nonzero(port));
        let socket = |path: &str| RemotePort::Socket(path.to_owned());
        let ip = |ip: &str| Some(Address::Ip(ip.parse().unwrap()));
        for (spec, address, local, remote) in [
            ("1", None, LocalPort::Same, number(1)),
            ("5000", None, LocalPort::Same, number(5000)),
            ("65535", None, LocalPort::Same, number(65535)),
            ("8888:5000", None, local(8888), number(5000)),
            ("080:80", None, local(80), number(80)),
            (":5000", None, LocalPort::Random, number(5000)),
            ("0:5000", None, LocalPort::Random, number(5000)),
            ("http", None, LocalPort::Same, name("http")),
            ("http:http", None, LocalPort::Same, name("http")),
            (":http", None, LocalPort::Random, name("http")),
            ("8080:http-alt", None, local(8080), name("http-alt")),
            ("80:80", None, local(80), number(80)),
            (
                "localhost:8080:80",
                Some(Address::Localhost),
                local(8080),
                number(80),
            ),
            (
                "127.0.0.1:8080:80",
                ip("127.0.0.1"),
                local(8080),
                number(80),
            ),
            ("0.0.0.0::80", ip("0.0.0.0"), LocalPort::Random, number(80)),
            ("[::1]:8080:http", ip("::1"), local(8080), name("http")),
            ("[::]::80", ip("::"), LocalPort::Random, number(80)),
            ("8080:db:5432", None, local(8080), host("db", 5432)),
            (
                ":10.0.0.5:80",
                None,
                LocalPort::Random,
                host("10.0.0.5", 80),
            ),
            ("1:[fd00::1]:2", None, local(1), host("fd00::1", 2)),
            (
                "127.0.0.1:1:db.shop.svc:2",
                ip("127.0.0.1"),
                local(1),
                host("db.shop.svc", 2),
            ),
            (
                "2375:unix:/run/a:b.sock",
                None,
                local(2375),
                socket("/run/a:b.sock"),
            ),
            (":unix:/a", None, LocalPort::Random, socket("/a")),
            ("[::1]:1:unix:/a", ip("::1"), local(1), socket("/a")),
        ] {
            let read: PortSpec = spec
                .parse()
                .unwrap_or_else(|error| panic!("{spec}: {error}"));
            assert_eq!(
                read,
                PortSpec {
                    address,
                    local,
                    remote
                },
                "{spec}"
            );
        }
    }

    #[test]
    fn a_bad_port_is_named_as_kubectl_names_it() {
        for (spec, part) in [
            ("", "remote port cannot be empty"),
            (":", "remote port cannot be empty"),
            ("8080:", "remote port cannot be empty"),
            ("0", "remote port must be > 0"),
            ("8080:0", "remote port must be > 0"),
            ("65536", "error parsing remote port '65536'"),
            ("99999999999999999999", "error parsing remote port"),
            ("-1", "error parsing remote port '-1'"),
            ("+80", "error parsing remote port '+80'"),
            ("80 ", "error parsing remote port '80 '"),
            ("８０", "error parsing remote port"),
            ("HTTP", "error parsing remote port 'HTTP'"),
            ("a_b", "error parsing remote port 'a_b'"),
            ("abc:80", "error parsing local port 'abc'"),
            ("-1:80", "error parsing local port '-1'"),
            ("65536:80", "error parsing local port '65536'"),
            ("http:https", "error parsing local port 'http'"),
            ("127.0.0.1:80", "error parsing local port '127.0.0.1'"),
            ("8080:80:90", "invalid port format '8080:80:90'"),
            ("127.0.0.1:1:2:3", "invalid port format"),
            ("::80", "invalid port format"),
            ("::1:8080:80", "invalid port format"),
            ("example.com:8080:80", "invalid port format"),
            ("[::1]:80", "invalid port format"),
            ("[::1]", "invalid port format"),
            ("[::1", "invalid port format"),
            ("[localhost]:80:80", "localhost is not a valid IP"),
            ("8080:db:0", "invalid port format"),
            ("8080:-db:80", "invalid port format"),
            ("8080:d b:80", "invalid port format"),
            ("8080:[::1:80", "invalid port format"),
            ("8080:unix:relative", "invalid port format"),
            ("unix:/a", "write LOCAL:unix:/a"),
        ] {
            let error = spec.parse::<PortSpec>().expect_err(spec).to_string();
            assert!(error.contains(part), "{spec}: {error}");
        }
        assert!("8080:80".parse::<RemotePort>().is_err());
        assert_eq!(
            "nohost".parse::<Address>().unwrap_err().to_string(),
            "nohost is not a valid IP"
        );
    }
}
