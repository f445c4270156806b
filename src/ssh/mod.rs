//! The gateway: an SSH server through which people reach pods, with one port and no listener per pod.
//!
//! A connection takes this way: the *door* decides whether it may stay, *access* who it is, *name* where it wants to go,
//! *policy* whether it may, and a *backend* takes it there; *audit* writes down what happened.
//!
//! | module | what it is |
//! |---|---|
//! | [`access`] | from a key or a certificate to an identity, and what it is restricted to |
//! | [`host_key`] | the keys by which users know the gateway |
//! | [`name`] | from a user name or a jump's host to a place |
//! | [`relay`] | channels to the sshd of a pod |
//! | [`request`] | what a client asks of a session, whoever answers it |
//! | [`spool`] | what has come in and can't go out yet: in memory, then on disk |

pub mod access;
pub mod host_key;
pub mod name;
pub mod relay;
pub mod request;
pub mod spool;
