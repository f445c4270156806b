//! `kpf::cluster` against scripted servers, proxies and plugins.
#![allow(clippy::unwrap_used)] // clippy sees the helpers of an integration test as no tests

mod lookups;
mod oidc;
#[cfg(unix)]
mod plugins;
mod proxies;
mod server;
mod tls;
mod upgrade;
