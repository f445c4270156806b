//! The gateway.

mod host_key;
