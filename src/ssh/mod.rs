//! The gateway: an SSH server through which people reach pods, with one port and no listener per pod.
//!
//! A connection takes this way: the *door* decides whether it may stay, *access* who it is, *name* where it wants to go,
//! *policy* whether it may, and a *backend* takes it there; *audit* writes down what happened.
//!
//! | module | what it is |
//! |---|---|
//! | [`access`] | from a key or a certificate to an identity, and what it is restricted to |
//! | [`check`] | whether what the configuration names can be used |
//! | [`config`] | the file that says all of this |
//! | [`host_key`] | the keys by which users know the gateway |
//! | [`name`] | from a user name or a jump's host to a place |
//! | [`audit`] | what happened: events, recordings, and whether the log is as it was written |
//! | [`policy`] | what somebody may do at a place |
//! | [`door`] | who may stay before anybody knows who it is |
//! | [`request`] | what a client asks of a session, whoever answers it |
//! | [`spool`] | what has come in and can't go out yet: in memory, then on disk |

pub mod access;
pub mod audit;
pub mod check;
pub mod config;
pub mod door;
pub mod host_key;
pub mod name;
pub mod policy;
pub mod request;
pub mod spool;
