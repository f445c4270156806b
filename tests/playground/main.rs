//! The playground.
#[path = "mod.rs"]
mod playground;
fn main() {}
