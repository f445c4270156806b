//! `kpf gateway manifests`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `kpf gateway manifests`.
#[derive(Args)]
pub struct ManifestsArgs {
    /// Image whose entry point is kpf
    #[arg(long, value_name = "IMAGE")]
    pub image: String,

    /// Name of everything that is made
    #[arg(long, value_name = "NAME", default_value = "kpf-gateway")]
    pub name: String,

    /// Namespace to make, and to make it in
    #[arg(long, value_name = "NAMESPACE", default_value = "kpf-gateway")]
    pub namespace: String,

    /// Number of pods
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub replicas: u16,

    /// How the service is reached
    #[arg(long, value_name = "TYPE", value_enum, default_value = "LoadBalancer")]
    pub service: ServiceType,

    /// Port of the service
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    pub port: u16,

    /// User that the gateway may act as, may be given more than once; without it, any
    #[arg(long = "impersonate-user", value_name = "USER")]
    pub users: Vec<String>,

    /// Group that the gateway may give to its users, may be given more than once; without it, none
    #[arg(long = "impersonate-group", value_name = "GROUP")]
    pub groups: Vec<String>,

    /// Use constrained impersonation: Kubernetes 1.36 and later
    #[arg(long)]
    pub constrained: bool,

    /// The gateway's configuration, `-` for stdin, instead of one with keys from a ConfigMap
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The type of a service.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ServiceType {
    /// With an address of its own
    LoadBalancer,
    /// By a port of every node
    NodePort,
    /// From inside the cluster only
    #[value(name = "ClusterIP")]
    ClusterIp,
}

pub(super) const HELP: &str = "\
Examples:
  kpf gateway manifests --image registry.example/kpf:0.1.0 | kubectl apply -f -
  kpf gateway manifests --image kpf:0.1.0 --impersonate-user alice --impersonate-group ml >gateway.yaml

Prints a Namespace, a ServiceAccount that may do nothing but act as its users, the roles for that and for one Secret with
the host key, two ConfigMaps (the configuration, and people's keys), a Deployment, a Service, a PodDisruptionBudget and a
NetworkPolicy. Each user needs `get` on pods, and `get` and `create` on pods/portforward and pods/exec.

Exit codes: 0 printed, 1 any failure.";
