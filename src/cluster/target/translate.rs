//! The port of a pod that a number or a name stands for, by kubectl's rules.
//!
//! For a pod and what selects pods, a number is taken as it is and a name is looked up in the pod's containers.
//! For a service, both must be among the service's ports, and lead to its target port.

use std::fmt;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{ContainerPort, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::TargetError;
use super::ports::RemotePort;
use crate::untrusted::printable;

/// Where connections to a pod are to end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodPort {
    /// Where somebody listens.
    pub endpoint: Endpoint,
    /// The number to listen on locally where none was given: the service's port, or else the pod's. A socket has none.
    pub local: Option<NonZeroU16>,
}

/// Where somebody listens, seen from a pod.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Endpoint {
    /// A port of the pod itself.
    Port(NonZeroU16),
    /// A port of a host that the pod can reach.
    Host(String, NonZeroU16),
    /// A unix socket in a container, by its path.
    Socket(String),
}

impl PodPort {
    fn of_pod(number: NonZeroU16, local: NonZeroU16) -> Self {
        Self {
            endpoint: Endpoint::Port(number),
            local: Some(local),
        }
    }

    /// What a user has written, where no pod need be asked what it means.
    pub(super) fn without_asking(port: &RemotePort) -> Option<Self> {
        match port {
            RemotePort::Number(number) => Some(Self::of_pod(*number, *number)),
            port => Self::elsewhere(port),
        }
    }

    /// What is no port of the pod or service.
    fn elsewhere(port: &RemotePort) -> Option<Self> {
        match port {
            RemotePort::Number(_) | RemotePort::Name(_) => None,
            RemotePort::Host(host, port) => Some(Self {
                endpoint: Endpoint::Host(host.clone(), *port),
                local: Some(*port),
            }),
            RemotePort::Socket(path) => Some(Self {
                endpoint: Endpoint::Socket(path.clone()),
                local: None,
            }),
        }
    }
}

/// As it is written as REMOTE.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(number) => number.fmt(f),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "unix:{path}"),
        }
    }
}

/// What a port means for a pod: a number as it is, a name by its containers.
pub(super) fn port_of_pod(pod: &Pod, port: &RemotePort) -> Result<PodPort, TargetError> {
    if let Some(elsewhere) = PodPort::elsewhere(port) {
        return Ok(elsewhere);
    }
    let number = match port {
        RemotePort::Number(number) => *number,
        RemotePort::Name(name) => container_port(pod, name)?,
        port => {
            return Err(no_such_port(
                format!("{port} is no port of a pod"),
                [].into_iter(),
            ));
        }
    };
    let declared =
        container_ports(pod).filter(|declared| declared.container_port == i32::from(number.get()));
    refuse_udp(port, declared.map(|declared| declared.protocol.as_deref()))?;
    Ok(PodPort::of_pod(number, number))
}

/// What a port means for a service and one of its pods.
pub(super) fn port_of_service(
    service: &Service,
    pod: &Pod,
    port: &RemotePort,
) -> Result<PodPort, TargetError> {
    if let Some(elsewhere) = PodPort::elsewhere(port) {
        return Ok(elsewhere);
    }
    let declared = service_port(service, port)?;
    let own = valid(declared.port)?;
    let headless = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None");
    let number = match &declared.target_port {
        // a headless service has no proxy that translates: clients reach its port on the pod
        _ if headless => own,
        None | Some(IntOrString::Int(0)) => own,
        Some(IntOrString::Int(number)) => valid(*number)?,
        Some(IntOrString::String(name)) => container_port(pod, name)?,
    };
    Ok(PodPort::of_pod(number, own))
}

/// The port that a service declares by this number or name.
pub(super) fn service_port<'a>(
    service: &'a Service,
    port: &RemotePort,
) -> Result<&'a ServicePort, TargetError> {
    let service_name = service.metadata.name.as_deref().unwrap_or_default();
    let declared = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let (number, missing) = match port {
        RemotePort::Number(number) => (
            Some(i32::from(number.get())),
            format!("Service {service_name} does not have a service port {number}"),
        ),
        RemotePort::Name(name) => (
            declared
                .iter()
                .find(|declared| declared.name.as_ref() == Some(name))
                .map(|declared| declared.port),
            format!("Service '{service_name}' does not have a named port '{name}'"),
        ),
        RemotePort::Host(..) | RemotePort::Socket(_) => {
            (None, format!("{port} is no port of a service"))
        }
    };
    let same_number = || {
        declared
            .iter()
            .filter(|declared| Some(declared.port) == number)
    };
    refuse_udp(
        port,
        same_number().map(|declared| declared.protocol.as_deref()),
    )?;
    let not_udp = same_number().find(|declared| !is_udp(declared.protocol.as_deref()));
    not_udp.ok_or_else(|| {
        let names = declared
            .iter()
            .map(|port| listed(port.port, port.name.as_deref()));
        no_such_port(missing, names)
    })
}

/// The number of the port with this name, in the containers and then in the init containers.
fn container_port(pod: &Pod, name: &str) -> Result<NonZeroU16, TargetError> {
    match container_ports(pod).find(|port| port.name.as_deref() == Some(name)) {
        Some(port) => valid(port.container_port),
        None => {
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            let missing = format!("Pod '{pod_name}' does not have a named port '{name}'");
            let names = container_ports(pod).filter(|port| port.name.is_some());
            let names = names.map(|port| listed(port.container_port, port.name.as_deref()));
            Err(no_such_port(missing, names))
        }
    }
}

fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    })
    .flat_map(|container| container.ports.iter().flatten())
}

/// A port that is declared for UDP only can't be forwarded; one that is declared for TCP too can.
fn refuse_udp<'a>(
    port: &RemotePort,
    protocols: impl Iterator<Item = Option<&'a str>>,
) -> Result<(), TargetError> {
    let mut protocols = protocols.map(is_udp).peekable();
    if protocols.peek().is_some() && protocols.all(|udp| udp) {
        return Err(TargetError::NoSuchPort(format!(
            "UDP protocol is not supported for {port}"
        )));
    }
    Ok(())
}

/// Where none is named it is TCP.
fn is_udp(protocol: Option<&str>) -> bool {
    protocol == Some("UDP")
}

/// The API server checks ports, but its word is not taken for it.
fn valid(number: i32) -> Result<NonZeroU16, TargetError> {
    u16::try_from(number)
        .ok()
        .and_then(NonZeroU16::new)
        .ok_or_else(|| {
            TargetError::NoSuchPort(format!(
                "the cluster declares the port {number}, which no port can have"
            ))
        })
}

fn listed(number: i32, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{number} ({name})"),
        None => number.to_string(),
    }
}

fn no_such_port(missing: String, ports: impl Iterator<Item = String>) -> TargetError {
    let ports: Vec<String> = ports.collect();
    TargetError::NoSuchPort(match ports.is_empty() {
        true => missing,
        false => format!("{missing}; it has {}", printable(&ports.join(", "), 200)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::target::tests::pod;

    fn web() -> Pod {
        pod(
            "web",
            json!({ "spec": {
            "containers": [
                { "name": "main", "ports": [
                    { "name": "http", "containerPort": 8080 },
                    { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                    { "name": "both-udp", "containerPort": 54, "protocol": "UDP" },
                    { "containerPort": 54, "protocol": "TCP" },
                    { "name": "bad", "containerPort": 70000 },
                ] },
                { "name": "other", "ports": [{ "name": "metrics", "containerPort": 9090 }] },
            ],
            "initContainers": [{ "name": "sidecar", "ports": [
                { "name": "http", "containerPort": 1 },
                { "name": "admin", "containerPort": 15000 },
            ] }],
        } }),
        )
    }

    fn service(cluster_ip: &str) -> Service {
        let spec: Value = json!({ "clusterIP": cluster_ip, "ports": [
            { "name": "http", "port": 80, "targetPort": "http" },
            { "name": "plain", "port": 81 },
            { "name": "zero", "port": 82, "targetPort": 0 },
            { "name": "number", "port": 83, "targetPort": 8083 },
            { "name": "lost", "port": 84, "targetPort": "nothing" },
            { "name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP" },
            { "name": "both-udp", "port": 54, "targetPort": 1, "protocol": "UDP" },
            { "name": "both-tcp", "port": 54, "targetPort": 2, "protocol": "TCP" },
        ] });
        serde_json::from_value(json!({ "metadata": { "name": "shop" }, "spec": spec })).unwrap()
    }

    fn numbers(port: Result<PodPort, TargetError>) -> Result<(u16, u16), String> {
        let number = |port: &PodPort| match port.endpoint {
            Endpoint::Port(number) => number.get(),
            _ => panic!("{port:?}"),
        };
        port.map(|port| (number(&port), port.local.unwrap().get()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_pods_port() {
        let of_pod = |port: &str| numbers(port_of_pod(&web(), &port.parse().unwrap()));
        for (port, number) in [
            ("80", 80), // need not be declared
            ("8080", 8080),
            ("http", 8080), // containers before init containers
            ("metrics", 9090),
            ("admin", 15000),
            ("54", 54),
            ("both-udp", 54),
        ] {
            assert_eq!(of_pod(port), Ok((number, number)), "{port}");
        }
        for (port, error) in [
            ("53", "UDP protocol is not supported for 53"),
            ("dns", "UDP protocol is not supported for dns"),
            (
                "bad",
                "the cluster declares the port 70000, which no port can have",
            ),
        ] {
            assert_eq!(of_pod(port), Err(error.to_owned()), "{port}");
        }
        let error = of_pod("nothing").unwrap_err();
        assert!(
            error.starts_with(
                "Pod 'web' does not have a named port 'nothing'; it has 8080 (http), 53"
            ),
            "{error}"
        );
        let bare = pod("bare", json!({}));
        let error = numbers(port_of_pod(&bare, &"x".parse().unwrap())).unwrap_err();
        assert_eq!(error, "Pod 'bare' does not have a named port 'x'");
    }

    #[test]
    fn a_services_port_leads_to_its_target_port() {
        let of_service = |port: &str| {
            numbers(port_of_service(
                &service("10.0.0.1"),
                &web(),
                &port.parse().unwrap(),
            ))
        };
        for (port, number, local) in [
            ("80", 8080, 80),
            ("http", 8080, 80),
            ("81", 81, 81),
            ("zero", 82, 82),
            ("83", 8083, 83),
            ("54", 2, 54),
            ("both-udp", 2, 54),
        ] {
            assert_eq!(of_service(port), Ok((number, local)), "{port}");
        }
        for (port, error) in [
            (
                "8080",
                "Service shop does not have a service port 8080; it has 80 (http), 81 (plain)",
            ),
            (
                "nothing",
                "Service 'shop' does not have a named port 'nothing'; it has 80 (http)",
            ),
            ("lost", "Pod 'web' does not have a named port 'nothing'"),
            ("53", "UDP protocol is not supported for 53"),
            ("dns", "UDP protocol is not supported for dns"),
        ] {
            let found = of_service(port).unwrap_err();
            assert!(found.starts_with(error), "{port}: {found}");
        }
    }

    #[test]
    fn a_headless_service_has_no_target_port() {
        let of_service = |port: &str| {
            numbers(port_of_service(
                &service("None"),
                &web(),
                &port.parse().unwrap(),
            ))
        };
        for (port, number) in [("80", 80), ("http", 80), ("83", 83), ("lost", 84)] {
            assert_eq!(of_service(port), Ok((number, number)), "{port}");
        }
        assert!(of_service("53").is_err());
    }
}
