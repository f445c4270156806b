//! The relay between a real OpenSSH client and a real sshd: what comes out must be what comes out without it.

mod bulk;
mod forwards;
mod hostile;
mod refusals;
mod server;
mod sessions;
mod through;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use kpf::ssh::access::Caps;
use kpf::ssh::relay::{Authority, Pins};
use kpf::ssh::spool::{Limits, Quota};
use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, PrivateKey};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::playground::sshd::Sshd;
use crate::program::command;
use crate::tools;
use server::{Gateway, Setup, Stream};

/// A private sshd that trusts the gateway's authority, and ways to it: with the gateway and without.
struct Ground {
    folder: TempDir,
    sshd: Arc<Sshd>,
    direct: SocketAddr,
    serving: AbortHandle,
    gateway: Gateway,
    traffic: Arc<Traffic>,
    ssh: PathBuf,
}

/// What has passed between the gateway and the pod.
#[derive(Default)]
struct Traffic {
    /// From the pod.
    read: AtomicU64,
    /// To the pod.
    written: AtomicU64,
    /// Cancelled, every connection to the pod breaks off.
    cut: CancellationToken,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.serving.abort();
        self.sshd.end_commands();
    }
}

fn key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap())
}

/// Limits for tests of what is over them; nothing else is that small.
fn limits(folder: &Path, channel: u64) -> Limits {
    Limits {
        channel,
        ..Limits::within(folder.to_owned())
    }
}

impl Ground {
    /// None where the machine lacks OpenSSH.
    async fn start() -> Option<Self> {
        Self::with(Limits::CHANNEL, Caps::all()).await
    }

    async fn with(channel: u64, caps: Caps) -> Option<Self> {
        let ssh = tools::find("ssh")?;
        tools::find("sshd")?;
        let folder = tempfile::tempdir().unwrap();
        let sshd = Sshd::prepare(folder.path()).unwrap().expect("an sshd");
        let authority = Authority::new(key());
        let config = folder.path().join("sshd").join("sshd_config");
        let trusted = folder.path().join("trusted");
        fs::write(&trusted, authority.public_line()).unwrap();
        let text = fs::read_to_string(&config).unwrap()
            + &format!(
                "TrustedUserCAKeys {}\nAcceptEnv LANG LC_*\nLogLevel VERBOSE\nStreamLocalBindUnlink yes\n",
                trusted.display()
            );
        fs::write(&config, text).unwrap();

        let sshd = Arc::new(sshd);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let direct = listener.local_addr().unwrap();
        let server = sshd.clone();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(socket).await });
            }
        });
        let traffic = Arc::<Traffic>::default();
        let counted = traffic.clone();
        let spool = folder.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let gateway = Gateway::start(Setup {
            dial: Box::new(move || {
                let traffic = counted.clone();
                Box::pin(async move {
                    let tcp = TcpStream::connect(direct).await?;
                    tcp.set_nodelay(true)?;
                    let cut = Box::pin(traffic.cut.clone().cancelled_owned());
                    let stream = Counted { tcp, traffic, cut };
                    Ok(Box::new(stream) as Box<dyn Stream>)
                })
            }),
            authority,
            login: sshd.user.clone(),
            caps,
            limits: limits(&spool, channel),
            quota: Quota::default(),
            pins: Pins::default(),
        })
        .await;
        Some(Self {
            folder,
            sshd,
            direct,
            serving: serving.abort_handle(),
            gateway,
            traffic,
            ssh,
        })
    }

    /// A program of OpenSSH's that goes through the gateway, or directly.
    fn client(&self, program: impl AsRef<Path>, relayed: bool, words: &[&str]) -> Command {
        let address = match relayed {
            true => self.gateway.address,
            false => self.direct,
        };
        let config = format!(
            "Host pod\n\
             HostName {}\n\
             Port {}\n\
             User {}\n\
             IdentityFile {}\n\
             IdentitiesOnly yes\n\
             UserKnownHostsFile /dev/null\n\
             GlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking no\n\
             BatchMode yes\n\
             LogLevel ERROR\n",
            address.ip(),
            address.port(),
            self.sshd.user,
            self.sshd.client_key().display(),
        );
        let path = self.folder.path().join(format!("ssh_config.{relayed}"));
        fs::write(&path, config).unwrap();
        let folder = self.folder.path();
        let mut command = command(program.as_ref().as_os_str(), folder, folder);
        command.arg("-F").arg(path).args(words);
        command
    }

    fn ssh(&self, words: &[&str]) -> Command {
        self.client(&self.ssh, true, words)
    }

    /// With a stdin of its own.
    fn piped(&self, words: &[&str]) -> Command {
        let mut command = self.ssh(words);
        command.stdin(Stdio::piped());
        command
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("sshd/log")).unwrap_or_default()
    }

    /// Waits until nothing has passed to or from the pod for a while, and says how much has.
    async fn at_rest(&self) -> (u64, u64) {
        let passed = || {
            (
                self.traffic.read.load(Ordering::Relaxed),
                self.traffic.written.load(Ordering::Relaxed),
            )
        };
        crate::program::in_time(async {
            loop {
                let before = passed();
                tokio::time::sleep(std::time::Duration::from_millis(700)).await;
                if passed() == before {
                    return before;
                }
            }
        })
        .await
    }
}

struct Counted {
    tcp: TcpStream,
    traffic: Arc<Traffic>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        let length = buffer.filled().len() - before;
        self.traffic
            .read
            .fetch_add(length as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, data);
        if let Poll::Ready(Ok(length)) = written {
            self.traffic
                .written
                .fetch_add(length as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
