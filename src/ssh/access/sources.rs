//! Where somebody may come from: `from=` of a key, `source-address` of a certificate.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::untrusted::printable;

/// Networks that somebody may come from, but for those that they may not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sources {
    allowed: Vec<IpNet>,
    refused: Vec<IpNet>,
}

impl Sources {
    /// Reads `10.0.0.0/8,!10.6.6.6,2001:db8::/32`. As with sshd, a `!` that matches wins, and one alone allows nothing.
    ///
    /// # Errors
    /// With the reason, where there is anything but addresses and networks: names and `*` are not taken, since what is
    /// known of a client is its address.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut sources = Self::default();
        for word in list.split(',').map(str::trim) {
            match word.strip_prefix('!') {
                Some(word) => sources.refused.push(network(word)?),
                None => sources.allowed.push(network(word)?),
            }
        }
        Ok(sources)
    }

    /// Reads what `source-address` has: [`Self::parse`] without `!`.
    ///
    /// # Errors
    /// With the reason.
    pub fn parse_plain(list: &str) -> Result<Self, String> {
        let networks = list.split(',').map(network);
        Ok(Self {
            allowed: networks.collect::<Result<_, _>>()?,
            refused: Vec::new(),
        })
    }

    /// Whether somebody at this address may come.
    #[must_use]
    pub fn have(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        is_in(&self.allowed) && !is_in(&self.refused)
    }
}

/// Reads a network or one address. IPv4 that is written as IPv6 (`::ffff:10.0.0.0/104`) is IPv4, as addresses are that
/// come to a socket for both.
///
/// # Errors
/// With the reason; also where the address has bits that the prefix doesn't, as with sshd: one of them is a mistake.
pub fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            format!(
                "`{}` is no address and no network: write 10.0.0.0/8 or 2001:db8::1",
                printable(text, 80)
            )
        })?,
    };
    if network.trunc() != network {
        return Err(format!(
            "`{network}` has an address inside of the network: write {}",
            network.trunc()
        ));
    }
    let mapped = match network {
        IpNet::V6(network) if network.prefix_len() >= 96 => network
            .addr()
            .to_ipv4_mapped()
            .and_then(|address| Ipv4Net::new(address, network.prefix_len() - 96).ok()),
        _ => None,
    };
    Ok(mapped.map_or(network, IpNet::V4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_in_networks() {
        for (list, address, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.1.2.3", false),
            ("2001:db8::/32,192.0.2.0/24", "192.0.2.7", true),
            ("2001:db8::/32, 192.0.2.0/24", "2001:db8:1::", true),
            ("10.0.0.0/8,!10.6.6.6", "10.6.6.5", true),
            ("!10.6.6.6,10.0.0.0/8", "10.6.6.6", false),
            ("!10.6.6.6", "10.6.6.5", false),
        ] {
            let sources = Sources::parse(list).unwrap();
            assert_eq!(
                sources.have(address.parse().unwrap()),
                expected,
                "{list} {address}"
            );
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        for (list, part) in [
            ("", "`` is no address"),
            ("10.0.0.0/8,", "`` is no address"),
            ("10.0.0.0/33", "is no address"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("10.0.0.*", "is no address"),
            ("*.example.com", "is no address"),
            ("010.0.0.1", "is no address"),
            ("10.1", "is no address"),
            ("10.0.0.0/8;", "is no address"),
            ("\u{1b}[2J", "`\\u{1b}[2J` is no address"),
        ] {
            let error = Sources::parse(list).unwrap_err();
            assert!(error.contains(part), "{list}: {error}");
        }
        Sources::parse_plain("10.0.0.0/8,::1").unwrap();
        Sources::parse_plain("!10.0.0.0/8").unwrap_err();
        Sources::parse_plain("10.0.0.0/8, ::1").unwrap_err();
    }

    proptest! {
        #[test]
        fn any_list_is_read_or_refused(list in "\\PC{0,40}|[0-9a-f:./!,]{0,40}", address: u128) {
            let address = IpAddr::from(address.to_be_bytes());
            if let Ok(sources) = Sources::parse(&list) {
                prop_assert!(!sources.allowed.is_empty() || !sources.have(address));
                prop_assert!(sources.refused.iter().all(|network| !sources.have(network.addr())));
            }
        }
    }
}
