//! A program that is asked whose a key is, once per login.
//!
//! It is run with three arguments more than are configured: the key's fingerprint (`SHA256:…`), its type and its
//! base64. Where it knows the key it prints one line of JSON, else nothing:
//!
//! ```json
//! {"user": "alice", "groups": ["ml"], "options": "restrict,pty"}
//! ```
//!
//! `groups` and `options` (those of authorized_keys) may be left out. Anything else lets nobody in: an exit code other
//! than 0, more than 64 KiB, more than three seconds, a key that is not one of these three. Its stdin is empty, its
//! environment has `PATH` only, and what it has started ends with it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use russh::keys::{HashAlg, PublicKey};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::authorized_keys::Options;
use super::{Error, Refusal, is_name, is_person};
use crate::untrusted::printable;

/// Somebody waits with their key in their hand.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes that it may print.
const MOST_OUTPUT: u64 = 64 << 10;

/// Bytes of stderr that are told in the log.
const MOST_COMPLAINT: u64 = 4 << 10;

/// Programs at a time; more logins than this wait, within their three seconds.
const MOST_AT_ONCE: usize = 8;

/// As sshd's `AuthorizedKeysCommand` has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program.
#[derive(Debug)]
pub(super) struct KeysCommand {
    program: String,
    arguments: Vec<String>,
    at_once: Semaphore,
}

/// Whose a key is.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
    pub(super) options: Options,
}

impl KeysCommand {
    pub(super) fn new(command: &[String]) -> Result<Self, Error> {
        match command {
            // As with sshd: a search would find what somebody else has put there.
            [program, arguments @ ..] if program.starts_with('/') => Ok(Self {
                program: program.clone(),
                arguments: arguments.to_vec(),
                at_once: Semaphore::new(MOST_AT_ONCE),
            }),
            [program, ..] => Err(Error::Setting(format!(
                "the keys command `{}` has no absolute path: begin it with `/`",
                printable(program, 200)
            ))),
            [] => Err(Error::Setting("the keys command is empty".to_owned())),
        }
    }

    /// Whose the key is, if it is somebody's.
    pub(super) async fn ask(&self, key: &PublicKey) -> Result<Option<Answer>, Refusal> {
        let output = match timeout(PATIENCE, self.run(key)).await {
            Ok(output) => output,
            Err(_) => Err(format!("took longer than {} s", PATIENCE.as_secs())),
        };
        output.and_then(|output| parse(&output)).map_err(|reason| {
            tracing::warn!(program = %printable(&self.program, 200), "the keys command {reason}");
            Refusal::Command(reason)
        })
    }

    async fn run(&self, key: &PublicKey) -> Result<Vec<u8>, String> {
        let _turn = self.at_once.acquire().await.map_err(|_| "was not run")?;
        let line = key
            .to_openssh()
            .map_err(|_| "can't be told the key".to_owned())?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .arg(key.fingerprint(HashAlg::Sha256).to_string())
            .args(line.split(' ').take(2))
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = command.spawn();
        let mut group = Group::of(child.map_err(|error| format!("can't be run: {error}"))?);
        let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
        // Both are read at once, so that neither is full while the other is waited for.
        let (output, complaint) = tokio::join!(
            bounded(stdout, MOST_OUTPUT + 1, false),
            bounded(stderr, MOST_COMPLAINT, true)
        );
        if output.len() as u64 > MOST_OUTPUT {
            return Err(format!("printed more than {MOST_OUTPUT} bytes"));
        }
        let status = group
            .end()
            .await
            .map_err(|error| format!("failed: {error}"))?;
        if status.success() {
            return Ok(output);
        }
        let complaint = printable(&String::from_utf8_lossy(&complaint), 300);
        Err(format!("failed with {status}: {complaint}"))
    }
}

/// Reads to the end or to `most`; where it `drains` it reads on, for a program that wouldn't end otherwise.
async fn bounded(stream: Option<impl AsyncRead + Unpin>, most: u64, drains: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // What can't be read is shown by the program's end.
        let _ = (&mut stream).take(most).read_to_end(&mut bytes).await;
        if drains {
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    }
    bytes
}

/// A process with all that it starts; it is killed when this is dropped.
struct Group {
    child: Child,
    /// Its own, until it was waited for: then it may be another's.
    id: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            id: id.and_then(Pid::from_raw),
            child,
        }
    }

    /// Waits for the process, and kills what it has left.
    async fn end(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(id) = self.id {
            // The group is this one's for as long as nobody has taken the exit status. The wait is on a thread, but not
            // for long: the process is killed when this is dropped.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let over = tokio::task::spawn_blocking(move || waitid(WaitId::Pid(id), options));
            over.await??;
            self.kill();
        }
        self.child.wait().await
    }

    fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // There may be nobody left.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill(); // and tokio takes its exit status
    }
}

fn parse(output: &[u8]) -> Result<Option<Answer>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        user: String,
        #[serde(default)]
        groups: Vec<String>,
        #[serde(default)]
        options: String,
    }
    if output.trim_ascii().is_empty() {
        return Ok(None);
    }
    let document: Document = serde_json::from_slice(output).map_err(|error| {
        format!(
            "printed what it should not: {}",
            printable(&error.to_string(), 200)
        )
    })?;
    let is_group = |group: &String| is_name(group) && is_person(group);
    if !is_person(&document.user) || !document.groups.iter().all(is_group) {
        return Err("named a user or a group that nobody can have".to_owned());
    }
    let options = Options::parse(&document.options)
        .map_err(|reason| format!("printed wrong options: {reason}"))?;
    Ok(Some(Answer {
        user: document.user,
        groups: document.groups,
        options,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ a b";

    async fn ask(script: &str) -> Result<Option<Answer>, Refusal> {
        let command = ["/bin/sh", "-c", script, "sh"].map(str::to_owned);
        let key = KEY.parse().unwrap();
        KeysCommand::new(&command).unwrap().ask(&key).await
    }

    async fn reason(script: &str) -> String {
        ask(script).await.expect_err(script).to_string()
    }

    #[tokio::test]
    async fn it_is_told_the_key_and_says_whose_it_is() {
        let answer = ask(
            r#"[ "$#" = 3 ] && [ "$2" = ssh-ed25519 ] && [ "${3#AAAAC3}" != "$3" ] && [ "${1#SHA256:}" != "$1" ] &&
            [ -z "$(cat)" ] && [ "$(env | grep -c =)" -le 4 ] &&
            echo '{"user": "alice", "groups": ["ml"], "options": "restrict,pty"}'"#,
        );
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.user, "alice");
        assert_eq!(answer.groups, ["ml"]);
        assert_eq!(answer.options, Options::parse("restrict,pty").unwrap());
        assert!(ask("true").await.unwrap().is_none());
        assert!(ask("echo").await.unwrap().is_none());
        let answer = ask(r#"echo '{"user":"bob"}'; yes complaint | head -c 300000 >&2"#).await;
        assert_eq!(answer.unwrap().unwrap().user, "bob");
    }

    #[tokio::test]
    async fn whatever_goes_wrong_lets_nobody_in() {
        for (script, part) in [
            (
                "echo '{\"user\":\"alice\"}'; exit 1",
                "failed with exit status: 1",
            ),
            ("printf 'no \\033[2J way' >&2; exit 2", "no \\u{1b}[2J way"),
            ("kill -KILL $$", "failed with signal: 9"),
            ("yes", "printed more than 65536 bytes"),
            ("echo alice", "printed what it should not"),
            ("echo '{}'", "missing field `user`"),
            ("echo '{\"user\":\"alice\"}{\"user\":\"bob\"}'", "trailing"),
            (
                "echo '{\"user\":\"alice\",\"admin\":true}'",
                "unknown field `admin`",
            ),
            ("echo '{\"user\":\"system:admin\"}'", "nobody can have"),
            ("echo '{\"user\":\"\"}'", "nobody can have"),
            (
                "echo '{\"user\":\"a\",\"groups\":[\"system:masters\"]}'",
                "nobody can have",
            ),
            (
                "echo '{\"user\":\"a\",\"groups\":[\"a,b\"]}'",
                "nobody can have",
            ),
            (
                "echo '{\"user\":\"a\",\"options\":\"cert-authority\"}'",
                "wrong options",
            ),
        ] {
            let reason = reason(script).await;
            assert!(reason.contains(part), "{script}: {reason}");
        }
        let missing = KeysCommand::new(&["/nowhere/keys".to_owned()]).unwrap();
        let error = missing.ask(&KEY.parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("can't be run"), "{error}");
        for command in [&[][..], &["keys".to_owned()], &["./keys".to_owned()]] {
            KeysCommand::new(command).unwrap_err();
        }
    }

    /// Whether a process is there, and no zombie.
    fn lives(id: &str) -> bool {
        let status = std::fs::read_to_string(Path::new("/proc").join(id).join("stat"));
        status.is_ok_and(|status| !status.contains(") Z "))
    }

    async fn is_gone(file: &Path) {
        let id = std::fs::read_to_string(file).unwrap();
        let id = id.trim();
        let begin = Instant::now();
        while lives(id) {
            assert!(begin.elapsed() < Duration::from_secs(10), "{id} lives");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn it_is_given_three_seconds_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let begin = Instant::now();
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        assert!(reason(&script).await.contains("took longer than 3 s"));
        assert!(begin.elapsed() < Duration::from_secs(8));
        is_gone(&file).await;
        // also where it ends well
        let script = format!(
            "sleep 60 >/dev/null 2>&1 & echo $! > {}; echo '{{\"user\":\"alice\"}}'",
            file.display()
        );
        assert_eq!(ask(&script).await.unwrap().unwrap().user, "alice");
        is_gone(&file).await;
    }

    proptest! {
        #[test]
        fn any_output_is_an_answer_or_an_error(bytes: Vec<u8>, text in "\\{(\"(user|groups|options)\": ?(\"[a-z:,=]{0,9}\"|\\[\\]|1),?){0,3}\\}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                if let Err(reason) = parse(bytes) {
                    prop_assert!(!reason.contains('\n'));
                }
            }
        }
    }
}
