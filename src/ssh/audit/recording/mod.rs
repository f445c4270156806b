//! What was on a terminal, so that it can be played again: an asciicast per session channel.
//!
//! Output only, unless the configuration says otherwise: what is typed holds passwords.
//!
//! ```no_run
//! use kpf::ssh::audit::recording::{Config, Policy, Recordings, Terminal};
//! use kpf::ssh::audit::{Direction, Exit, SessionId};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let recordings = Recordings::open("/var/lib/kpf/recordings".as_ref(), Config::default())?;
//! let terminal = Terminal { kind: "xterm".into(), columns: 80, rows: 24 };
//! let recorder = recordings.begin(Policy::Required, SessionId::random(), 0, terminal).await?;
//! if let Some(recorder) = recorder {
//!     tokio::select! {
//!         why = recorder.failed() => { /* close the channel, say why */ }
//!         written = recorder.data(Direction::Out, "hello\r\n".into()) => written?, // and then pass it on
//!     }
//!     let summary = recorder.finish(Exit::Code(0)).await; // into the event `recording.end`
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`asciicast`] | what happens becomes lines |
//! | [`recorder`] | one channel's queue and file |
//! | [`replay`] | a recording is played again |
//! | [`screen`] | what may reach the terminal of whoever watches |

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod asciicast;
pub mod recorder;
pub mod replay;
pub mod screen;
mod store;
mod text;

pub use asciicast::{Format, Terminal};
pub use recorder::{Recorder, Summary};

use super::session::SessionId;
use store::Store;

/// Whether a channel is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// It isn't.
    #[default]
    Off,
    /// As well as it can be: the channel goes on without it, and the event says so.
    BestEffort,
    /// Or it is closed: when the recorder fails, or is five seconds behind.
    Required,
}

/// How recordings are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// In which format.
    pub format: Format,
    /// Bytes of one file; a recording ends there, and the channel with it if it is required.
    pub max_bytes: u64,
    /// Bytes that are left free on the volume.
    pub min_free: u64,
    /// Whether what is typed is recorded as well: passwords too.
    pub input: bool,
}

impl Default for Config {
    /// 1 GiB of a recording, and as much left free: what the configuration file has.
    fn default() -> Self {
        Self {
            format: Format::default(),
            max_bytes: 1 << 30,
            min_free: 1 << 30,
            input: false,
        }
    }
}

/// Why a recording isn't whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no file.
    #[error("no recording can be made in {}: {why}", directory.display())]
    Create {
        /// Of the recordings.
        directory: PathBuf,
        /// The operating system's reason.
        why: String,
    },
    /// The file took no more.
    #[error("cannot write the recording: {0}")]
    Write(String),
    /// It has reached its limit.
    #[error("the recording has reached its limit of {0} bytes")]
    TooLarge(u64),
    /// The volume is nearly full.
    #[error("less than {0} bytes are free for recordings")]
    NoSpace(u64),
    /// The disk doesn't keep up.
    #[error("the recording is too far behind")]
    Behind,
}

/// Where recordings are made. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recordings {
    store: Arc<Store>,
    config: Config,
}

impl Recordings {
    /// Opens a directory that is there.
    ///
    /// # Errors
    /// It isn't, or may not be read.
    pub fn open(directory: &Path, config: Config) -> io::Result<Self> {
        Ok(Self {
            store: Arc::new(Store::open(directory)?),
            config,
        })
    }

    /// Begins the recording of a channel; none if the policy is off.
    ///
    /// # Errors
    /// It is required and can't be made: the channel is not to be opened.
    pub async fn begin(
        &self,
        policy: Policy,
        session: SessionId,
        channel: u32,
        terminal: Terminal,
    ) -> Result<Option<Recorder>, Failure> {
        if policy == Policy::Off {
            return Ok(None);
        }
        let store = self.store.clone();
        Recorder::begin(store, self.config, policy, session, channel, terminal)
            .await
            .map(Some)
    }
}
