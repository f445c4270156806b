//! The beginning of a connection to the proxy: SOCKS5 (RFC 1928) or HTTP CONNECT (RFC 9110, 9.3.6).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a CONNECT request with its header: what browsers' proxies take.
const LONGEST_HEAD: usize = 16 << 10;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NOTHING_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;

/// What a client wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    /// A name, or an address without brackets.
    pub host: String,
    /// Above 0.
    pub port: u16,
}

/// Why a client gets nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It speaks neither protocol, or not as it is written.
    Malformed,
    /// It asks for something else than a connection.
    Unsupported,
    /// It may not go there.
    NotAllowed,
    /// There is no such place.
    NoHost,
    /// The port is refused.
    Refused,
    /// Any other failure.
    Failed,
}

/// What comes next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// More of the client's bytes.
    Read,
    /// Send this, then go on.
    Reply(Vec<u8>),
    /// The client wants this, and has sent so many bytes up to here.
    Wish(Wish, usize),
    /// Send this, which may be nothing, and close.
    Refuse(Vec<u8>),
}

/// The conversation so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Greeting {
    /// Nothing is known.
    #[default]
    New,
    /// SOCKS5; so many bytes were the offer of methods, which is answered.
    Socks(usize),
    /// CONNECT.
    Http,
}

impl Greeting {
    /// Looks at all that the client has sent so far. To be called again after each [`Step::Reply`], and after more bytes.
    pub fn advance(&mut self, sent: &[u8]) -> Step {
        match (*self, sent.first()) {
            (_, None) => Step::Read,
            (Self::New, Some(&VERSION)) => self.methods(sent),
            (Self::New, Some(b'A'..=b'Z')) => {
                *self = Self::Http;
                self.head(sent)
            }
            (Self::New, Some(_)) => Step::Refuse(Vec::new()),
            (Self::Socks(offer), _) => self.request(sent, offer),
            (Self::Http, _) => self.head(sent),
        }
    }

    /// The client's methods; the one that is taken is none.
    fn methods(&mut self, sent: &[u8]) -> Step {
        let Some(&count) = sent.get(1) else {
            return Step::Read;
        };
        let length = 2 + usize::from(count);
        let Some(methods) = sent.get(2..length) else {
            return Step::Read;
        };
        match methods.contains(&NO_AUTHENTICATION) {
            true => {
                *self = Self::Socks(length);
                Step::Reply(vec![VERSION, NO_AUTHENTICATION])
            }
            false => Step::Refuse(vec![VERSION, NOTHING_ACCEPTABLE]),
        }
    }

    fn request(self, sent: &[u8], offer: usize) -> Step {
        let request = sent.get(offer..).unwrap_or_default();
        let refuse = |refusal| Step::Refuse(self.refusal(refusal));
        let &[version, command, reserved, kind, ref rest @ ..] = request else {
            return match request.first() {
                Some(&version) if version != VERSION => refuse(Refusal::Malformed),
                _ => Step::Read,
            };
        };
        if version != VERSION || reserved != 0 {
            return refuse(Refusal::Malformed);
        }
        if command != CONNECT {
            return refuse(Refusal::Unsupported);
        }
        let length = match (kind, rest.first()) {
            (1, _) => 4,
            (4, _) => 16,
            (3, None) => return Step::Read,
            (3, Some(0)) => return refuse(Refusal::Malformed),
            (3, Some(&length)) => 1 + usize::from(length),
            _ => return Step::Refuse(socks_reply(8)),
        };
        let Some((address, port)) = rest.get(..length + 2).map(|it| it.split_at(length)) else {
            return Step::Read;
        };
        let host = match (kind, address) {
            (1, &[a, b, c, d]) => Ok(Ipv4Addr::new(a, b, c, d).to_string()),
            (3, [_, name @ ..]) => String::from_utf8(name.to_vec()).map_err(drop),
            (_, address) => <[u8; 16]>::try_from(address)
                .map(|bytes| Ipv6Addr::from(bytes).to_string())
                .map_err(drop),
        };
        let port = u16::from_be_bytes([port[0], port[1]]);
        match host {
            Ok(host) if port > 0 && is_plain(&host) => {
                Step::Wish(Wish { host, port }, offer + 4 + length + 2)
            }
            _ => refuse(Refusal::Malformed),
        }
    }

    fn head(self, sent: &[u8]) -> Step {
        let refuse = |refusal| Step::Refuse(self.refusal(refusal));
        let end = sent.windows(4).position(|it| it == b"\r\n\r\n");
        let Some(end) = end.filter(|&end| end <= LONGEST_HEAD) else {
            return match sent.len() > LONGEST_HEAD {
                true => refuse(Refusal::Malformed),
                false => Step::Read,
            };
        };
        let Ok(head) = std::str::from_utf8(&sent[..end]) else {
            return refuse(Refusal::Malformed);
        };
        let line: Vec<&str> = head.lines().next().unwrap_or_default().split(' ').collect();
        let [method, authority, "HTTP/1.0" | "HTTP/1.1"] = line[..] else {
            return refuse(Refusal::Malformed);
        };
        if method != "CONNECT" {
            return refuse(Refusal::Unsupported);
        }
        let wish = authority.rsplit_once(':').and_then(|(host, port)| {
            let host = match host.strip_prefix('[') {
                Some(host) => host
                    .strip_suffix(']')?
                    .parse::<Ipv6Addr>()
                    .ok()?
                    .to_string(),
                None => Some(host).filter(|host| !host.contains(':'))?.to_owned(),
            };
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|&port| port > 0 && digits)?;
            is_plain(&host).then_some(Wish { host, port })
        });
        match wish {
            Some(wish) => Step::Wish(wish, end + 4),
            None => refuse(Refusal::Malformed),
        }
    }

    /// What tells the client that it is connected.
    pub fn success(self) -> Vec<u8> {
        match self {
            Self::Http => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
            _ => socks_reply(0),
        }
    }

    /// What tells the client that it isn't.
    pub fn refusal(self, refusal: Refusal) -> Vec<u8> {
        if self != Self::Http {
            return socks_reply(match refusal {
                Refusal::Malformed | Refusal::Failed => 1,
                Refusal::NotAllowed => 2,
                Refusal::NoHost => 4,
                Refusal::Refused => 5,
                Refusal::Unsupported => 7,
            });
        }
        let status = match refusal {
            Refusal::Malformed => "400 Bad Request",
            Refusal::Unsupported => "405 Method Not Allowed\r\nAllow: CONNECT",
            Refusal::NotAllowed => "403 Forbidden",
            Refusal::NoHost => "404 Not Found",
            Refusal::Refused | Refusal::Failed => "502 Bad Gateway",
        };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    }
}

/// A reply without an address, which nobody needs: the connection is inside.
fn socks_reply(code: u8) -> Vec<u8> {
    vec![VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// What may stand in a name or an address.
fn is_plain(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All answers up to the end, the bytes coming in pieces of this size.
    fn talk(sent: &[u8], piece: usize) -> (Greeting, Vec<u8>, Option<Step>) {
        let (mut greeting, mut replies) = (Greeting::default(), Vec::new());
        let mut length = 0;
        loop {
            match greeting.advance(&sent[..length]) {
                Step::Read if length == sent.len() => return (greeting, replies, None),
                Step::Read => length = sent.len().min(length + piece),
                Step::Reply(reply) => replies.extend(reply),
                end => return (greeting, replies, Some(end)),
            }
        }
    }

    fn wish(host: &str, port: u16, length: usize) -> Option<Step> {
        let host = host.to_owned();
        Some(Step::Wish(Wish { host, port }, length))
    }

    #[test]
    fn socks_and_connect_are_understood_however_they_are_cut() {
        let name = b"\x05\x02\x02\x00\x05\x01\x00\x03\x08web.shop\x00\x50GET /";
        let v4 = b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x90";
        let mut v6 = b"\x05\x01\x00\x05\x01\x00\x04".to_vec();
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0, 22]);
        for piece in 1..40 {
            assert_eq!(talk(name, piece).2, wish("web.shop", 80, 19));
            assert_eq!(talk(name, piece).1, b"\x05\x00");
            assert_eq!(talk(v4, piece).2, wish("127.0.0.1", 8080, v4.len()));
            assert_eq!(talk(&v6, piece).2, wish("::1", 22, v6.len()));
            for (authority, host, port) in [
                ("web.shop:80", "web.shop", 80),
                ("[::1]:65535", "::1", 65535),
            ] {
                let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n");
                let all = format!("{head}\x16\x03");
                assert_eq!(talk(all.as_bytes(), piece).2, wish(host, port, head.len()));
            }
        }
        assert_eq!(Greeting::Socks(3).success()[..2], [5, 0]);
        assert!(Greeting::Http.success().starts_with(b"HTTP/1.1 200 "));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (sent, reply) in [
            (&b"\x04\x01"[..], &b""[..]), // SOCKS4
            (b"\x16\x03\x01", b""),       // TLS
            (b"\x05\x01\x02", b"\x05\xff"),
            (b"\x05\x00", b"\x05\xff"),
            (b"\x05\x01\x00\x04", b"\x05\x01"),
            (b"\x05\x01\x00\x05\x02\x00\x01", b"\x05\x07"), // BIND
            (b"\x05\x01\x00\x05\x03\x00\x01", b"\x05\x07"), // UDP ASSOCIATE
            (b"\x05\x01\x00\x05\x01\x01\x01", b"\x05\x01"),
            (b"\x05\x01\x00\x05\x01\x00\x02", b"\x05\x08"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x00", b"\x05\x01"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x00", b"\x05\x01"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x01\xff\x00\x50", b"\x05\x01"),
            (
                b"\x05\x01\x00\x05\x01\x00\x03\x03a\r\n\x00\x50",
                b"\x05\x01",
            ),
            (b"GET http://web.shop/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
            (b"CONNECT web.shop HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT web.shop:0 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT web.shop:+1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT :80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT a:b:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT [x]:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT web.shop:80 HTTP/2\r\n\r\n", b"HTTP/1.1 400 "),
            (b"CONNECT \xff:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        ] {
            let (_, _, end) = talk(sent, sent.len());
            let Some(Step::Refuse(said)) = end else {
                panic!("{sent:?}: {end:?}");
            };
            assert!(
                said.starts_with(reply) && said.is_empty() == reply.is_empty(),
                "{sent:?}: {said:?}"
            );
        }
        let endless = vec![b'A'; LONGEST_HEAD + 1];
        assert!(matches!(talk(&endless, 1000).2, Some(Step::Refuse(_))));
    }

    proptest! {
        /// No bytes make it panic, and what it says doesn't depend on how they were cut.
        #[test]
        fn pieces_make_no_difference(
            start in prop::sample::select(vec![&b""[..], b"\x05\x01\x00", b"\x05\x01\x00\x05\x01\x00\x03", b"CONNECT "]),
            rest in any::<Vec<u8>>(),
            piece in 1..9usize,
        ) {
            let sent = [start, &rest].concat();
            prop_assert_eq!(talk(&sent, piece), talk(&sent, sent.len().max(1)));
        }

        /// What a wish says stands in the bytes up to where it ends.
        #[test]
        fn a_name_is_what_was_written(host in "[a-z0-9-]{1,60}(\\.[a-z0-9-]{1,60}){0,2}", port in 1..=u16::MAX) {
            let head = format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n");
            prop_assert_eq!(talk(head.as_bytes(), 3).2, wish(&host, port, head.len()));
        }
    }
}
