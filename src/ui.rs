//! The only printer.
