//! `kpf proxy` without IO: what clients of SOCKS5 and of HTTP CONNECT ask for, and how they are answered.
//!
//! A client's first byte tells which of the two it speaks. [`Greeting`] is fed what the client has sent and says what to
//! send back, until there is a [`Wish`]; bytes after it are the client's own. [`place()`] reads the name that is wished for.

mod greeting;
mod place;

pub use greeting::{Greeting, Refusal, Step, Wish};
pub use place::{Place, place};
