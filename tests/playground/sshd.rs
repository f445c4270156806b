//! The machine's OpenSSH server as a service of a pod: one `sshd -i` per connection, with keys of its own.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

/// Keys and configuration of the playground's SSH servers.
#[derive(Debug)]
pub(crate) struct Sshd {
    binary: PathBuf,
    folder: PathBuf,
    /// Who can log in: the user that the playground runs as.
    pub(crate) user: String,
}

impl Sshd {
    /// Prepares a folder for it; `None` if the machine has no OpenSSH server.
    pub(crate) fn prepare(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(binary) = find("sshd") else {
            return Ok(None);
        };
        let Some(keygen) = find("ssh-keygen") else {
            return Ok(None);
        };
        let folder = folder.join("sshd");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for name in ["host_key", "client_key"] {
            let made = Command::new(&keygen)
                .args([
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    "kpf playground",
                    "-f",
                ])
                .arg(folder.join(name))
                .stdin(Stdio::null())
                .status()
                .context("running ssh-keygen")?;
            ensure!(made.success(), "ssh-keygen failed: {made}");
        }
        let key = fs::read_to_string(folder.join("host_key.pub"))?;
        fs::write(folder.join("known_hosts"), format!("* {key}"))?;
        fs::copy(
            folder.join("client_key.pub"),
            folder.join("authorized_keys"),
        )?;
        let at = folder.display();
        let config = format!(
            "HostKey {at}/host_key\n\
             AuthorizedKeysFile {at}/authorized_keys\n\
             PidFile none\n\
             StrictModes no\n\
             UsePAM no\n\
             PermitRootLogin prohibit-password\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PrintMotd no\n\
             UseDNS no\n\
             MaxSessions 100\n\
             Subsystem sftp internal-sftp\n"
        );
        fs::write(folder.join("sshd_config"), config)?;
        if rustix::process::geteuid().is_root() {
            // Debian's sshd wants this empty folder; its service file makes it otherwise
            fs::create_dir_all("/run/sshd").context("making sshd's /run/sshd")?;
        }
        let user = Command::new("id")
            .arg("-un")
            .output()
            .context("running id")?;
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        Ok(Some(Self {
            binary,
            folder,
            user,
        }))
    }

    /// The private key that opens it.
    pub(crate) fn client_key(&self) -> PathBuf {
        self.folder.join("client_key")
    }

    /// A file for `UserKnownHostsFile` that knows the host key under every name.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    /// Serves one connection; the server ends with this future.
    pub(crate) async fn serve(&self, tcp: TcpStream) -> io::Result<()> {
        let tcp = tcp.into_std()?;
        tcp.set_nonblocking(false)?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let child = tokio::process::Command::new(&self.binary)
            .args(["-i", "-e", "-f"])
            .arg(self.folder.join("sshd_config"))
            .stdin(Stdio::from(OwnedFd::from(tcp.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(tcp)))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut session = Session(child);
        session.0.wait().await?;
        Ok(())
    }
}

/// An `sshd -i`. Dropped while it runs, it ends with everything that was started through it.
struct Session(tokio::process::Child);

impl Drop for Session {
    fn drop(&mut self) {
        let Some(sshd) = self.0.id() else { return };
        // Commands are sessions of their own and outlive their sshd; only the tree of processes tells whose they are.
        for pid in descendants(sshd) {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // it may have ended since
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// A process and all below it, as far as `/proc` tells.
fn descendants(ancestor: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // `PID (name, which may hold anything) STATE PARENT ...`
            let (_, after_name) = stat.rsplit_once(')')?;
            let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    family
}

/// A program on PATH or where system programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
