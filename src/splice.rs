//! Copying both ways.
