//! The gateway.

mod check;
mod host_key;
