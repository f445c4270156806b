//! The one integration binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod generated;
mod layers;
