//! The gateway.

mod host_key;
mod relay;
