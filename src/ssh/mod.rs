//! The gateway: an SSH server through which people reach pods, with one port and no listener per pod.
//!
//! A connection takes this way: the *door* decides whether it may stay, *access* who it is, *name* where it wants to go,
//! *policy* whether it may, and a *backend* takes it there; *audit* writes down what happened.
//!
//! | module | what it is |
//! |---|---|
//! | [`door`] | who may stay before anybody knows who it is |
//! | [`access`] | from a key or a certificate to an identity, and what it is restricted to |
//! | [`name`] | from a user name or a jump's host to a place |
//! | [`policy`] | what somebody may do at a place |
//! | [`server`] | the SSH engine: connections and channels |
//! | [`builtin`] | the gateway's own commands |
//! | `jump` | a channel to a port of a pod |
//! | `session` | a session in a container |
//! | [`way`] | by which of two ways sessions get into a pod, and the login to its sshd |
//! | `relayed` | channels of a user to the sshd of a pod |
//! | [`relay`] | what they are carried by |
//! | [`spool`] | what has come in and can't go out yet: in memory, then on disk |
//! | [`kubernetes`] | the clusters, as one connection's user reaches them |
//! | [`request`] | what a client asks of a session, whoever answers it |
//! | [`audit`] | what happened: events, recordings, and whether the log is as it was written |
//! | [`host_key`] | the keys by which users know the gateway |
//! | [`config`] | the file that says all of this |
//! | [`check`] | whether what the configuration names can be used |
//! | [`laptop`] | the same without any configuration, for one's own machine |
//! | [`metrics`] | how it is doing, for Prometheus and probes |
//! | [`manifests`] | what a cluster needs to run it |

pub mod access;
pub mod audit;
pub mod builtin;
pub mod check;
pub mod config;
pub mod door;
pub mod host_key;
mod jump;
pub mod kubernetes;
pub mod laptop;
pub mod manifests;
pub mod metrics;
pub mod name;
pub mod policy;
pub mod relay;
mod relayed;
pub mod request;
pub mod server;
mod session;
pub mod spool;
pub mod way;
