//! What `kpf connect --ssh` tells `kpf known-hosts` of the pod that it has reached.
//!
//! ssh runs both, and gives the second one no hint what the first one did; a name that leads to many pods doesn't tell.
//! So the note bears the process id of ssh, the parent of both. It is written before ssh gets the pod's first byte, and
//! thus before ssh asks for any host key, and each ssh writes its own: what an older one has left is never read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::edit::private_folder;
use super::pins::Holder;
use crate::cluster::Environment;

/// Which pod it is.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Note {
    /// Whose host keys are asked for.
    pub holder: Holder,
}

/// A note that is there as long as this is.
#[derive(Debug)]
pub struct Left(PathBuf);

impl Note {
    /// Leaves it for the children of this process' parent.
    ///
    /// # Errors
    /// There is no place to write it to.
    pub fn leave(&self, environment: &Environment) -> io::Result<Left> {
        let path = place(environment)?;
        private_folder(path.parent().unwrap_or_else(|| Path::new(".")))?;
        // A leftover may be a link or somebody else's.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let file = options.open(&path)?;
        let left = Left(path);
        serde_json::to_writer(file, self)?;
        Ok(left)
    }

    /// The one that was left by a sibling.
    ///
    /// # Errors
    /// There is none, or it isn't one.
    pub fn read(environment: &Environment) -> io::Result<Self> {
        let bytes = fs::read(place(environment)?)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // the next one of this number replaces it anyway
        let _ = fs::remove_file(&self.0);
    }
}

fn place(environment: &Environment) -> io::Result<PathBuf> {
    #[cfg(unix)]
    {
        let runtime = environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
        let folder = match runtime.filter(|path| path.is_absolute()) {
            Some(folder) => folder.join("kpf"),
            None => super::pins::folder(environment)?,
        };
        let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
        Ok(folder.join(format!("ssh-{parent}")))
    }
    #[cfg(not(unix))]
    {
        let _ = environment;
        Err(io::Error::other("this system tells nobody's parent"))
    }
}
