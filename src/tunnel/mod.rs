//! One upgraded connection, many streams.
