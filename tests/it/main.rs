//! The one integration binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../playground/mod.rs"]
mod playground;

mod bad_input;
mod cluster;
mod complete;
mod connect;
mod differences;
mod doctor;
mod exec;
mod faults;
mod follow;
mod forward;
mod forwards;
mod gateway;
mod generated;
mod isolation;
mod kubectl;
mod layers;
mod lifecycle;
mod node;
mod portforward;
mod program;
mod proxy;
mod rbac;
mod real;
mod scripting;
mod side_by_side;
mod ssh;
mod ssh_config;
mod survive;
mod tools;
mod try_it;
mod upgrade;
mod via;
mod watches;
