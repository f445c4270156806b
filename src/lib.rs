//! kpf reaches ports and processes inside Kubernetes pods.
//!
//! | module | what it is |
//! |---|---|
//! | [`commands`] | what you type: `forward`, `connect`, `exec` |
//! | [`ssh`] | the gateway: an SSH server in front of pods |
//! | [`dial`] | a cluster and a pod become a tunnel or a running command: WebSocket first, SPDY when refused |
//! | [`cluster`] | who and where: kubeconfig, credentials, proxies, one HTTP client, target to pod |
//! | [`forwards`] | the file of forwards that have names |
//! | [`openssh`] | what ssh needs to reach pods: its configuration, and host keys pinned to pods |
//! | [`proxy`] | what clients of SOCKS5 and HTTP CONNECT ask for, without IO |
//! | [`tunnel`] | one upgraded connection shared by many streams |
//! | [`exec`] | a command in a container: its streams and its exit status |
//! | [`spdy`] | SPDY/3.1 without IO, clock or Kubernetes |
//! | [`splice`] | what happens on a stream: copy both ways, half-close, counters |
//! | [`untrusted`] | text from servers and pods, made fit to show |
//! | [`yaml`] | files that people write, with the place of each error |
//! | [`complete`] | what may come next on a command line |
//! | [`cli`], [`ui`] | the words that people type and read |
//!
//! Imports point one way only: `commands` to `dial` to `cluster`, `exec` and `tunnel`, `exec` to `tunnel`, `tunnel` to
//! `spdy`.
#![forbid(unsafe_code)]

pub mod cli;
pub mod cluster;
pub mod commands;
pub mod complete;
pub mod dial;
pub mod exec;
pub mod forward;
pub mod forwards;
pub mod openssh;
pub mod proxy;
pub mod spdy;
pub mod splice;
pub mod ssh;
pub mod tunnel;
pub mod ui;
pub mod untrusted;
pub mod yaml;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
