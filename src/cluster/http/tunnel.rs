//! Asking a proxy for a connection: HTTP CONNECT and SOCKS5 (RFC 1928, 1929), over a connection to the proxy.
//!
//! Own code rather than hyper-util's because that hides the proxy's status, the one thing that tells a wrong
//! password from a forbidden destination.

use std::io;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::untrusted::printable;

/// Why a proxy gave no connection; its reason never holds our credentials.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The HTTP status of the proxy, if that was its answer.
    pub(super) status: Option<u16>,
    pub(super) reason: String,
}

impl Refusal {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            status: None,
            reason: reason.into(),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::new("it closed the connection"),
            _ => Self::new(printable(&error.to_string(), 100)),
        }
    }
}

/// Asks an HTTP proxy to connect `io` to `host`:`port`. Every 2xx is a yes, as in client-go.
pub(super) async fn connect(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
    port: u16,
    credentials: Option<&(String, String)>,
) -> Result<(), Refusal> {
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let mut request = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {}\r\n",
        super::USER_AGENT
    );
    if let Some((user, password)) = credentials {
        let basic = STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("Proxy-Authorization: Basic {basic}\r\n"));
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;

    // One byte at a time, since what follows the head isn't ours to swallow; it is read once per connection.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX {
            return Err(Refusal::new("its answer has no end"));
        }
        head.push(io.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let status = match (words.next(), words.next().map(str::parse::<u16>)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => status,
        _ => return Err(Refusal::new("its answer isn't HTTP")),
    };
    match status {
        200..300 => Ok(()),
        407 if credentials.is_none() => Err(Refusal {
            status: Some(407),
            reason: format!("{} (put user:password@ before its host)", shown(line)),
        }),
        _ => Err(Refusal {
            status: Some(status),
            reason: shown(line),
        }),
    }
}

/// The status line without its version: `403 Forbidden`.
fn shown(line: &str) -> String {
    printable(line.split_once(' ').map_or("", |(_, rest)| rest), 100)
}

const HEAD_MAX: usize = 8 << 10; // what net/http allows is more, what proxies send is far less

/// Asks a SOCKS5 proxy to connect `io` to `host`:`port`; a name is resolved by the proxy, as in Go.
pub(super) async fn socks5(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
    port: u16,
    credentials: Option<&(String, String)>,
) -> Result<(), Refusal> {
    const NO_AUTHENTICATION: u8 = 0;
    const PASSWORD: u8 = 2;
    let methods: &[u8] = if credentials.is_some() {
        &[5, 2, NO_AUTHENTICATION, PASSWORD]
    } else {
        &[5, 1, NO_AUTHENTICATION]
    };
    io.write_all(methods).await?;
    let mut chosen = [0; 2];
    io.read_exact(&mut chosen).await?;
    match (chosen, credentials) {
        ([5, NO_AUTHENTICATION], _) => {}
        ([5, PASSWORD], Some((user, password))) => {
            let mut message = vec![1];
            push_counted(&mut message, user.as_bytes())
                .ok_or_else(|| Refusal::new("the user's name is too long"))?;
            push_counted(&mut message, password.as_bytes())
                .ok_or_else(|| Refusal::new("the password is too long"))?;
            io.write_all(&message).await?;
            let mut verdict = [0; 2];
            io.read_exact(&mut verdict).await?;
            if verdict[1] != 0 {
                return Err(Refusal::new("wrong user or password"));
            }
        }
        ([5, _], Some(_)) => return Err(Refusal::new("it accepts no user and password")),
        ([5, _], None) => {
            return Err(Refusal::new(
                "it wants a user and password (put user:password@ before its host)",
            ));
        }
        _ => return Err(Refusal::new("it doesn't speak SOCKS5")),
    }

    let mut request = vec![5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => request.extend([1].iter().chain(&ip.octets())),
        Ok(IpAddr::V6(ip)) => request.extend([4].iter().chain(&ip.octets())),
        Err(_) => {
            request.push(3);
            push_counted(&mut request, host.as_bytes())
                .ok_or_else(|| Refusal::new("the server's name is too long"))?;
        }
    }
    request.extend(port.to_be_bytes());
    io.write_all(&request).await?;
    let mut reply = [0; 4];
    io.read_exact(&mut reply).await?;
    if reply[0] != 5 {
        return Err(Refusal::new("it doesn't speak SOCKS5"));
    }
    if reply[1] != 0 {
        return Err(Refusal::new(socks5_reply(reply[1])));
    }
    // The address that the proxy is bound to, of no use to us.
    let length = match reply[3] {
        1 => 4,
        4 => 16,
        _ => usize::from(io.read_u8().await?),
    };
    let mut rest = [0; 255 + 2];
    io.read_exact(&mut rest[..length + 2]).await?;
    Ok(())
}

fn push_counted(message: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    message.push(u8::try_from(bytes.len()).ok()?);
    message.extend(bytes);
    Some(())
}

fn socks5_reply(code: u8) -> String {
    // Go's words, golang.org/x/net/internal/socks
    let text = match code {
        1 => "general SOCKS server failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        code => return format!("unknown code: {code}"),
    };
    text.to_owned()
}
