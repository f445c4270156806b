//! Kubernetes as kpf sees it.
pub mod target;
