//! The gateway: an SSH server through which people reach pods, with one port and no listener per pod.
//!
//! A connection takes this way: the *door* decides whether it may stay, *access* who it is, *name* where it wants to go,
//! *policy* whether it may, and a *backend* takes it there; *audit* writes down what happened.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | the SSH engine: connections and channels |
//! | [`access`] | from a key or a certificate to an identity, and what it is restricted to |
//! | [`laptop`] | the same without any configuration, for one's own machine |
//! | [`name`] | from a user name or a jump's host to a place |
//! | [`kubernetes`] | the clusters, as one connection's user reaches them |
//! | [`request`] | what a client asks of a session, whoever answers it |
//! | `session` | a session in a container |
//! | `jump` | a channel to a port of a pod |
//! | [`builtin`] | the gateway's own commands |
//! | [`audit`] | what happened: events, recordings, and whether the log is as it was written |
//! | [`spool`] | what has come in and can't go out yet: in memory, then on disk |

pub mod access;
pub mod audit;
pub mod builtin;
mod jump;
pub mod kubernetes;
pub mod laptop;
pub mod name;
pub mod request;
pub mod server;
mod session;
pub mod spool;
