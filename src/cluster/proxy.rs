//! Which proxy leads to the API server.
//!
//! The rules are Go's (`golang.org/x/net/http/httpproxy`), because kubectl's users have set up their machines for
//! them: the context's `proxy-url` always counts; otherwise `HTTPS_PROXY` (`HTTP_PROXY` for an http server) counts
//! unless `NO_PROXY` names the server, and never for this machine itself. `ALL_PROXY` is not looked at.

use std::fmt;
use std::net::IpAddr;

use ::http::Uri;
use percent_encoding::percent_decode_str;

use super::{Environment, Error};
use crate::untrusted::printable;

/// A proxy, with the credentials that its URL had. Shown without them.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) credentials: Option<(String, String)>,
}

/// How one talks to a proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scheme {
    Http,
    Https,
    /// Names are always resolved by the proxy: Go treats `socks5` and `socks5h` alike.
    Socks5,
}

/// The proxy to `server`, if there is one; `configured` is what the context or `--proxy-url` says.
pub(super) fn choose(
    server: &Uri,
    configured: Option<&str>,
    environment: &Environment,
) -> Result<Option<Proxy>, Error> {
    if let Some(url) = configured.filter(|url| !url.is_empty()) {
        return Proxy::parse(url).map(Some).map_err(|reason| Error::Proxy {
            setting: "proxy-url",
            reason,
        });
    }
    let (setting, names) = match server.scheme_str() {
        Some("https") => ("HTTPS_PROXY", ["HTTPS_PROXY", "https_proxy"]),
        _ => ("HTTP_PROXY", ["HTTP_PROXY", "http_proxy"]),
    };
    let Some(url) = environment.text(&names) else {
        return Ok(None);
    };
    if is_local(server)
        || is_excluded(
            server,
            environment
                .text(&["NO_PROXY", "no_proxy"])
                .unwrap_or_default(),
        )
    {
        return Ok(None);
    }
    Proxy::parse(url)
        .map(Some)
        .map_err(|reason| Error::Proxy { setting, reason })
}

impl Proxy {
    /// The reason of a failure never quotes the URL: it may hold a password.
    fn parse(url: &str) -> Result<Self, String> {
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
        let (scheme, default_port) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            Some("socks5" | "socks5h") => (Scheme::Socks5, 1080),
            other => {
                let scheme = printable(other.unwrap_or_default(), 20);
                return Err(format!(
                    "unsupported scheme `{scheme}`, must be http, https, socks5 or socks5h"
                ));
            }
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err("no host in it".to_owned());
        };
        let userinfo = uri
            .authority()
            .and_then(|authority| authority.as_str().rsplit_once('@'));
        let credentials = userinfo.map(|(userinfo, _)| {
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            (decode(user), decode(password))
        });
        Ok(Self {
            scheme,
            host: bare(host).to_owned(),
            port: uri.port_u16().unwrap_or(default_port),
            credentials,
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Socks5 => "socks5",
        };
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host without the brackets that an IPv6 address has in a URL.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// The port of `server`, or its scheme's.
pub(super) fn port(server: &Uri) -> u16 {
    let default = if server.scheme_str() == Some("http") {
        80
    } else {
        443
    };
    server.port_u16().unwrap_or(default)
}

fn is_local(server: &Uri) -> bool {
    let host = bare(server.host().unwrap_or_default());
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(loopback)
}

/// Whether one of the entries of `list` (a `NO_PROXY`) means `server`.
fn is_excluded(server: &Uri, list: &str) -> bool {
    let host = bare(server.host().unwrap_or_default()).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    list.split(',').any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return address.is_some_and(|address| in_network(address, network, bits));
        }
        let (pattern, wanted) = split_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port(server).to_string()) {
            return false;
        }
        if let Ok(ip) = bare(pattern).parse::<IpAddr>() {
            return address == Some(ip.to_canonical());
        }
        match pattern
            .strip_prefix("*.")
            .or_else(|| pattern.strip_prefix('.'))
        {
            // only what is below the domain
            Some(domain) => {
                !domain.is_empty()
                    && host
                        .strip_suffix(domain)
                        .is_some_and(|rest| rest.ends_with('.'))
            }
            None => {
                let below = || {
                    host.strip_suffix(pattern)
                        .is_some_and(|rest| rest.ends_with('.'))
                };
                !pattern.is_empty() && (host == pattern || below())
            }
        }
    })
}

/// `HOST:PORT` or `[IPV6]:PORT` taken apart; a bare IPv6 address has no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (entry, None),
    }
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        server: &str,
        configured: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Option<String> {
        let environment = environment.iter().copied().collect();
        let proxy = choose(&server.parse().unwrap(), configured, &environment).unwrap();
        proxy.map(|proxy| proxy.to_string())
    }

    const PROXY: (&str, &str) = ("HTTPS_PROXY", "http://proxy.corp:3128");

    /// `crates.md` §0 row 5: NO_PROXY is about the cluster, not about the proxy.
    #[test]
    fn no_proxy_is_matched_against_the_server() {
        let direct =
            |server: &str, list: &str| chosen(server, None, &[PROXY, ("NO_PROXY", list)]).is_none();
        assert!(direct("https://10.1.2.3", "10.0.0.0/8"));
        assert!(!direct("https://11.1.2.3", "10.0.0.0/8"));
        assert!(!direct("https://10.1.2.3", "proxy.corp"));
        assert!(direct(
            "https://api.corp.example",
            "example.com, CORP.example"
        ));
        assert!(direct("https://corp.example", "corp.example"));
        assert!(!direct("https://xcorp.example", "corp.example"));
        assert!(direct("https://api.corp.example", ".corp.example"));
        assert!(
            !direct("https://corp.example", ".corp.example"),
            "a leading dot means below it"
        );
        assert!(direct("https://api.corp.example", "*.corp.example"));
        assert!(!direct("https://corp.example", "*.corp.example"));
        assert!(direct(
            "https://api.corp.example:6443",
            "api.corp.example:6443"
        ));
        assert!(!direct("https://api.corp.example", "api.corp.example:6443"));
        assert!(
            direct("https://api.corp.example", "api.corp.example:443"),
            "the scheme's port counts"
        );
        assert!(direct("https://[fd00::1]:6443", "fd00::/8"));
        assert!(direct("https://[fd00::1]:6443", "fd00::1"));
        assert!(direct("https://[fd00::1]:6443", "[fd00::1]:6443"));
        assert!(!direct("https://[fd00::1]:6443", "[fd00::1]:443"));
        assert!(direct("https://10.1.2.3", "10.1.2.3"));
        assert!(direct("https://anything", "x,*"));
        assert!(direct("https://1.2.3.4", "0.0.0.0/0"));
        for nonsense in [
            "",
            ",",
            ".",
            ":",
            "*.",
            "/",
            "10.0.0.0/33",
            "10.0.0.0/x",
            "::/129",
            "[",
            "1.2.3.4:",
        ] {
            assert!(!direct("https://10.1.2.3", nonsense), "{nonsense}");
        }
    }

    /// `crates.md` §0 row 6.
    #[test]
    fn this_machine_is_never_proxied() {
        for server in [
            "https://localhost:6443",
            "https://LOCALHOST",
            "https://127.0.0.1:6443",
            "https://127.9.9.9",
            "https://[::1]:6443",
        ] {
            assert_eq!(chosen(server, None, &[PROXY]), None, "{server}");
        }
        assert!(chosen("https://localhost.example", None, &[PROXY]).is_some());
        // what the context says counts all the same
        assert!(chosen("https://127.0.0.1:6443", Some("socks5://b:1"), &[]).is_some());
    }

    /// `crates.md` §0 row 7.
    #[test]
    fn every_source_and_scheme_of_gos() {
        assert_eq!(
            chosen("http://server", None, &[PROXY]),
            None,
            "HTTPS_PROXY isn't for an http server"
        );
        assert_eq!(
            chosen("http://server", None, &[("http_proxy", "p:1")]).as_deref(),
            Some("http://p:1")
        );
        assert_eq!(
            chosen("https://server", None, &[("https_proxy", "p")]).as_deref(),
            Some("http://p:80")
        );
        assert_eq!(
            chosen("https://server", None, &[("https_proxy", "low"), PROXY]).as_deref(),
            Some("http://proxy.corp:3128")
        );
        assert_eq!(
            chosen("https://server", None, &[("ALL_PROXY", "p:1")]),
            None
        );
        let excluded = [PROXY, ("NO_PROXY", "*")];
        assert_eq!(
            chosen("https://server", Some("https://p"), &excluded).as_deref(),
            Some("https://p:443"),
            "proxy-url is unconditional"
        );
        assert_eq!(
            chosen("https://server", Some("socks5h://[fd00::2]"), &[]).as_deref(),
            Some("socks5://[fd00::2]:1080")
        );
        assert_eq!(
            chosen("https://server", Some(""), &[PROXY]).as_deref(),
            Some("http://proxy.corp:3128")
        );
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let uri = "https://server".parse().unwrap();
        let proxy = choose(
            &uri,
            Some("http://us%40er:p%3Aw@proxy:1"),
            &Environment::default(),
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            proxy.credentials,
            Some(("us@er".to_owned(), "p:w".to_owned()))
        );
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "http://proxy:1 http://proxy:1"
        );
        for bad in [
            "ftp://me:s3cret@host",
            "http://me:s3cret@",
            "http://me:s3cret@ho st",
        ] {
            let error = choose(&uri, Some(bad), &Environment::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("proxy-url") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}
