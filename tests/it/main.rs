//! The one integration binary.

mod generated;
