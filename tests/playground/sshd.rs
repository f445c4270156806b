//! The machine's OpenSSH server as a service of a pod: one `sshd -i` per connection, with keys of its own.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tokio::net::TcpStream;

use super::process;

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
        let (Some(binary), Some(keygen)) = (find("sshd"), find("ssh-keygen")) else {
            return Ok(None);
        };
        let user = Command::new("id").arg("-un").output();
        let user = user.context("running id")?.stdout;
        let sshd = Self {
            binary,
            folder: folder.join("sshd"),
            user: String::from_utf8_lossy(&user).trim().to_owned(),
        };
        fs::create_dir(&sshd.folder)?;
        fs::set_permissions(&sshd.folder, fs::Permissions::from_mode(0o700))?;
        sshd.make_key(&keygen, "host_key")?;
        sshd.make_key(&keygen, "client_key")?;
        let file = |name: &str| sshd.folder.join(name);
        let host = fs::read_to_string(file("host_key.pub"))?;
        fs::write(file("known_hosts"), format!("* {host}"))?;
        fs::copy(file("client_key.pub"), file("authorized_keys"))?;
        fs::write(file("sshd_config"), sshd.config())?;
        if rustix::process::geteuid().is_root() {
            // Debian's sshd wants this empty folder; its service file makes it otherwise
            fs::create_dir_all("/run/sshd").context("making sshd's /run/sshd")?;
        }
        Ok(Some(sshd))
    }

    fn make_key(&self, keygen: &Path, name: &str) -> anyhow::Result<()> {
        let made = Command::new(keygen)
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "playground", "-f"])
            .arg(self.folder.join(name))
            .stdin(Stdio::null())
            .status()
            .context("running ssh-keygen")?;
        ensure!(made.success(), "ssh-keygen failed: {made}");
        Ok(())
    }

    /// A pod has a home of its own: the start-up files of whoever runs the playground are not for it.
    fn config(&self) -> String {
        let folder = self.folder.display();
        let mark = self.mark();
        format!(
            "HostKey {folder}/host_key\n\
             AuthorizedKeysFile {folder}/authorized_keys\n\
             PidFile none\n\
             StrictModes no\n\
             UsePAM no\n\
             PermitRootLogin prohibit-password\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PrintMotd no\n\
             UseDNS no\n\
             MaxSessions 100\n\
             AcceptEnv LANG LC_*\n\
             SetEnv {mark} HOME={folder}\n\
             Subsystem sftp internal-sftp\n"
        )
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
        let mut child = tokio::process::Command::new(&self.binary)
            .args(["-i", "-e", "-f"])
            .arg(self.folder.join("sshd_config"))
            .stdin(Stdio::from(OwnedFd::from(tcp.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(tcp)))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        child.wait().await?;
        Ok(())
    }

    /// Ends what was started by SSH and is still there: commands are sessions of their own, and outlive their sshd as on
    /// any machine. A variable in their environment tells whose they are.
    pub(crate) fn end_commands(&self) {
        process::end_marked(&self.mark());
    }

    fn mark(&self) -> String {
        format!("KPF_PLAYGROUND={}", self.folder.display())
    }
}

/// A program on PATH or where system programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
