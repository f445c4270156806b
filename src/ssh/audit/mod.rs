//! What happened, written down: events as JSON Lines in a hash chain.
//!
//! ```text
//! {"v":1,"ts":"2026-11-22T01:02:03.456789Z","seq":418,"prev":"sha256:…","gw":"gw-0","type":"channel.open","sid":"01JD…","conn":7,…}
//! ```
//!
//! `prev` is the SHA-256 of the line before, so that an edit, a gap and another order show ([`verify()`]). A process that
//! starts again goes on with the chain in its file.
//!
//! ```no_run
//! use kpf::ssh::audit::{About, Audit, Kind, OnFailure, Redact, SinkConfig, SinkKind};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let sinks = [SinkConfig { kind: SinkKind::File("/var/log/kpf/audit.jsonl".into()), required: true }];
//! let audit = Audit::open("gw-0", &sinks, OnFailure::Deny, Redact::default())?;
//! audit.write(About::default(), Kind::ConnOpen { proxy: None })?; // queued
//! audit.commit(About::default(), Kind::SessionStart {}).await?; // in every required sink, or no session
//! tokio::select! {
//!     () = audit.failed() => { /* end the sessions */ }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`event`] | everything that can be written |
//! | [`mod@line`] | an event becomes one line: escaped, bounded, without secrets |
//! | [`chain`] | how lines hang together |
//! | [`mod@verify`] | whether they still do |
//! | [`sink`], [`target`] | where they go, each from a thread of its own |
//! | [`log`] | the one who writes; fails closed |
//! | [`auditor`] | code that watches, and may close |
//! | [`recording`] | what was on a terminal |

pub mod auditor;
pub mod chain;
pub mod event;
pub mod line;
pub mod log;
pub mod recording;
pub mod redact;
pub mod session;
pub mod sink;
pub mod target;
pub mod verify;

pub use auditor::{Auditor, Direction, Verdict};
pub use event::{About, Exit, Kind, Place, Requested};
pub use log::{Audit, OnFailure, Refused};
pub use redact::Redact;
pub use session::SessionId;
pub use sink::{SinkConfig, SinkKind};
pub use verify::{Report, Verifier, verify};

#[cfg(test)]
mod tests;
