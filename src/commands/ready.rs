//! Telling others that all is ready: by files, and by systemd's socket.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cluster::Environment;

/// Files that appear when all is ready, whole, and are gone when this is.
pub(super) struct ReadyFiles {
    files: Vec<ReadyFile>,
}

struct ReadyFile {
    path: PathBuf,
    /// Beside it, until it is ready.
    new: PathBuf,
    is_ports: bool,
}

impl ReadyFiles {
    /// Finds out whether the files can be made, before anything else is done. What an earlier run has left is removed: it
    /// would say that this one is ready.
    pub(super) fn new(ports: Option<&Path>, ready: Option<&Path>) -> anyhow::Result<Self> {
        let mut files = Self { files: Vec::new() };
        for (path, is_ports) in [(ports, true), (ready, false)] {
            let Some(path) = path else { continue };
            let mut new = path.as_os_str().to_owned();
            new.push(format!(".kpf-{}", std::process::id()));
            let file = ReadyFile {
                path: path.to_owned(),
                new: new.into(),
                is_ports,
            };
            File::create(&file.new).with_context(|| cannot_write(path))?;
            files.files.push(file);
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| cannot_write(path));
                }
                _ => {}
            }
        }
        Ok(files)
    }

    /// Makes them. `ports` are the lines of the file with the ports; the other one has kpf's process id.
    pub(super) fn tell(&self, ports: &[String]) -> anyhow::Result<()> {
        for file in &self.files {
            let text = match file.is_ports {
                true => ports.iter().map(|port| format!("{port}\n")).collect(),
                false => format!("{}\n", std::process::id()),
            };
            let written = (|| {
                let mut new = File::create(&file.new)?;
                new.write_all(text.as_bytes())?;
                fs::rename(&file.new, &file.path)
            })();
            written.with_context(|| cannot_write(&file.path))?;
        }
        Ok(())
    }
}

impl Drop for ReadyFiles {
    fn drop(&mut self) {
        for ReadyFile { path, new, .. } in &self.files {
            // one of them is there
            let _ = fs::remove_file(new);
            let _ = fs::remove_file(path);
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write `{}`", path.display())
}

/// Tells the service manager, as sd_notify(3) does. A manager that doesn't listen is no failure.
pub(super) fn notify_manager(environment: &Environment, state: &str) {
    #[cfg(unix)]
    {
        use std::os::unix::net::UnixDatagram;
        let Some(place) = environment.get("NOTIFY_SOCKET") else {
            return;
        };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            #[cfg(target_os = "linux")]
            if let Some(name) = place.to_str().and_then(|place| place.strip_prefix('@')) {
                use std::os::linux::net::SocketAddrExt as _;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                return socket.send_to_addr(state.as_bytes(), &address);
            }
            socket.send_to(state.as_bytes(), Path::new(place))
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "NOTIFY_SOCKET takes no message");
        }
    }
    #[cfg(not(unix))]
    let _ = (environment, state);
}
