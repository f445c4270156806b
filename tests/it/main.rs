//! The one integration binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../playground/mod.rs"]
mod playground;

mod cluster;
mod exec;
mod faults;
mod generated;
mod kubectl;
mod layers;
mod portforward;
mod rbac;
mod tools;
mod try_it;
mod upgrade;
