//! Names of a cluster as a client of the proxy writes them.

use crate::cluster::target::Target;

/// Where a name leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// Into the cluster.
    Cluster(Target),
    /// Anywhere else.
    Elsewhere,
}

/// Reads `SERVICE.NAMESPACE`, `SERVICE.NAMESPACE.svc[.cluster.local]` and the host form `OBJECT.NAMESPACE[.CONTEXT].kpf`;
/// in any case, and with the dot that ends a full name.
pub fn place(host: &str) -> Place {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.ends_with(".kpf") {
        return host.parse().map_or(Place::Elsewhere, Place::Cluster);
    }
    let labels: Vec<&str> = host.split('.').collect();
    let ([service, namespace]
    | [service, namespace, "svc"]
    | [service, namespace, "svc", "cluster", "local"]) = labels[..]
    else {
        return Place::Elsewhere;
    };
    format!("{namespace}/service/{service}")
        .parse()
        .map_or(Place::Elsewhere, Place::Cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_are_known_and_no_others() {
        for (host, target) in [
            ("web.shop", "shop/service/web"),
            ("WEB.Shop.", "shop/service/web"),
            ("web.shop.svc", "shop/service/web"),
            ("web.shop.svc.cluster.local", "shop/service/web"),
            ("db-0.shop.kpf", "shop/pod/db-0"),
            ("deploy_api.shop.kpf", "shop/deployment/api"),
        ] {
            let Place::Cluster(found) = place(host) else {
                panic!("{host}");
            };
            assert_eq!(found.to_string(), target, "{host}");
        }
        for host in [
            "",
            ".",
            "web",
            "www.example.com",
            "10.0.0.1",
            "::1",
            "a..b",
            "web.shop.svc.local",
            "x.kpf",
            "a_b.c",
            "we%b.shop",
        ] {
            assert_eq!(place(host), Place::Elsewhere, "{host}");
        }
    }
}
