//! The one integration binary.

#[path = "../playground/mod.rs"]
mod playground;

mod faults;
mod kubectl;
mod portforward;
mod rbac;
mod tools;
mod upgrade;
