//! The PROXY protocol, version 2: a load balancer says where a connection really comes from, before its first byte.
//! (HAProxy's `proxy-protocol.txt`, §2.2.) Taken only from senders that are listed, since anybody can write one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How every header of version 1 begins.
const VERSION_1: &[u8] = b"PROXY ";
/// Signature, version and command, family and protocol, length.
const FIXED: usize = 16;
/// Bytes after those at most. Addresses take 36; the rest are extensions, of which TLS certificates' names are the longest
/// that balancers send.
const MAX_VARIABLE: usize = 4096;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The beginning of a header, of which at least so many bytes more have to come. To read no more than these leaves the
    /// client's own bytes alone.
    More(usize),
    /// A whole header. `None` if the balancer speaks for itself: a health check.
    Done(Option<SocketAddr>),
}

/// It is no header that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else: the client's own bytes, for one.
    #[error("no PROXY header came from a sender that is listed")]
    NotAHeader,
    /// The text form can't be told from a client's own words by length.
    #[error("a PROXY header of version 1; have the balancer send version 2")]
    Version1,
    /// An unknown version or command.
    #[error("a PROXY header of an unknown version or command ({0:#04x})")]
    Unknown(u8),
    /// Not TCP, or an address family without addresses.
    #[error("a PROXY header for something other than TCP ({0:#04x})")]
    NotTcp(u8),
    /// Its length doesn't fit its family, or is beyond all use.
    #[error("a PROXY header of {0} bytes")]
    Length(usize),
}

/// Reads a header from the first bytes of a connection.
///
/// # Errors
/// The connection is to be closed.
pub fn parse(input: &[u8]) -> Result<Progress, ProxyError> {
    let head = &input[..input.len().min(SIGNATURE.len())];
    if !SIGNATURE.starts_with(head) {
        let begin = &head[..head.len().min(VERSION_1.len())];
        return Err(match VERSION_1.starts_with(begin) {
            true => ProxyError::Version1,
            false => ProxyError::NotAHeader,
        });
    }
    let Some((fixed, variable)) = input.split_first_chunk::<FIXED>() else {
        return Ok(Progress::More(FIXED - input.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_VARIABLE {
        return Err(ProxyError::Length(length));
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        other => return Err(ProxyError::Unknown(other)),
    };
    let addresses = match family {
        _ if local => 0, // whatever is there is to be passed over
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        other => return Err(ProxyError::NotTcp(other)),
    };
    if length < addresses {
        return Err(ProxyError::Length(length));
    }
    if variable.len() < length {
        return Ok(Progress::More(length - variable.len()));
    }
    Ok(Progress::Done(source(&variable[..addresses])))
}

/// The first of two addresses and the first of two ports.
fn source(addresses: &[u8]) -> Option<SocketAddr> {
    let (address, ports): (IpAddr, _) = match addresses.len() {
        12 => {
            let (address, rest) = addresses.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*address).into(), &rest[4..])
        }
        36 => {
            let (address, rest) = addresses.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*address).into(), &rest[16..])
        }
        _ => return None,
    };
    let (port, _) = ports.split_first_chunk::<2>()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let length = u16::try_from(variable.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, variable].concat()
    }

    fn tcp(source: SocketAddr) -> Vec<u8> {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => {
                let addresses = [&ip.octets()[..], &[10, 0, 0, 1], &port, &[0, 22]].concat();
                header(0x21, 0x11, &addresses)
            }
            IpAddr::V6(ip) => {
                let addresses = [&ip.octets()[..], &[0; 16], &port, &[0, 22]].concat();
                header(0x21, 0x21, &addresses)
            }
        }
    }

    #[test]
    fn addresses_are_read() {
        for source in ["203.0.113.9:51034", "[2001:db8::7]:1"] {
            let source: SocketAddr = source.parse().unwrap();
            assert_eq!(parse(&tcp(source)), Ok(Progress::Done(Some(source))));
        }
        let with_extension = header(
            0x21,
            0x11,
            &[1, 2, 3, 4, 0, 0, 0, 0, 0, 5, 0, 22, 4, 0, 1, 0],
        );
        let source = "1.2.3.4:5".parse().unwrap();
        assert_eq!(parse(&with_extension), Ok(Progress::Done(Some(source))));
    }

    #[test]
    fn a_balancer_speaks_for_itself() {
        for header in [
            header(0x20, 0x00, &[]),
            header(0x20, 0x11, &[0; 12]),
            header(0x20, 0x31, &[0; 5]),
            header(0x21, 0x00, &[]),
        ] {
            assert_eq!(parse(&header), Ok(Progress::Done(None)));
        }
    }

    #[test]
    fn everything_else_is_refused_at_its_first_wrong_byte() {
        assert_eq!(parse(b"S"), Err(ProxyError::NotAHeader));
        assert_eq!(parse(b"P"), Err(ProxyError::Version1));
        assert_eq!(parse(b"PROXY TCP4 1.2.3.4"), Err(ProxyError::Version1));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIX"), Err(ProxyError::NotAHeader));
        assert_eq!(
            parse(&header(0x11, 0x11, &[0; 12])),
            Err(ProxyError::Unknown(0x11))
        );
        assert_eq!(
            parse(&header(0x22, 0x11, &[0; 12])),
            Err(ProxyError::Unknown(0x22))
        );
        for family in [0x12, 0x22, 0x31, 0x01, 0xff] {
            let wrong = header(0x21, family, &[0; 216]);
            assert_eq!(parse(&wrong), Err(ProxyError::NotTcp(family)));
        }
        assert_eq!(
            parse(&header(0x21, 0x11, &[0; 11])),
            Err(ProxyError::Length(11))
        );
        assert_eq!(
            parse(&header(0x21, 0x21, &[0; 12])),
            Err(ProxyError::Length(12))
        );
        let length = ProxyError::Length(4097);
        assert_eq!(parse(&header(0x20, 0x11, &[0; 4097])), Err(length));
    }

    fn any_source() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(input in any::<Vec<u8>>(), variable in any::<Vec<u8>>(), command: u8, family: u8) {
            let _ = parse(&input);
            let _ = parse(&header(command, family, &variable));
            let _ = parse(&header(0x21, 0x11, &variable));
        }

        #[test]
        fn nothing_past_the_header_is_asked_for(source in any_source(), extension in prop::collection::vec(any::<u8>(), 0..300), after in any::<Vec<u8>>()) {
            let mut whole = tcp(source);
            let length = whole.len() - FIXED + extension.len();
            whole[14..16].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            whole.extend(extension);
            let wire = [&whole[..], &after[..]].concat();
            let mut taken = 0;
            let found = loop {
                match parse(&wire[..taken]).unwrap() {
                    Progress::More(more) => { prop_assert!(more > 0); taken += more; }
                    Progress::Done(source) => break source,
                }
            };
            prop_assert_eq!(found, Some(source));
            prop_assert_eq!(taken, whole.len());
        }
    }
}
