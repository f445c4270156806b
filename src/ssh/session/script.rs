//! What runs in the container. Nothing that a client has sent is ever part of a script: it comes as positional parameters.

use std::ffi::OsString;

use super::{Program, Start};

/// Takes variables up to a lone `-`, and then does what the word behind it says.
///
/// The shell is the one of `$SHELL`, or of the user in `/etc/passwd`, or bash, or sh. No program but `id` is needed for it.
/// `printf %b` turns escaped bytes back: a container runtime takes words of UTF-8 only.
const SCRIPT: &str = r#"while [ "$1" != - ]; do export "$1"; shift; done
what=$2
shift 2
if [ "$what" = sftp ]; then
  for server do
    [ -x "$server" ] && exec "$server"
  done
  echo "kpf: this container has no sftp-server; \`scp -O\` needs scp in it, and rsync needs rsync" >&2
  exit 127
fi
shell=${SHELL:-}
if [ -z "$shell" ] && [ -r /etc/passwd ]; then
  me=$(id -u 2>/dev/null)
  while IFS=: read -r _ _ uid _ _ _ login; do
    [ "$uid" = "$me" ] && shell=$login && break
  done </etc/passwd
  case $shell in */nologin | */false | */sync) shell= ;; esac
fi
[ -x "$shell" ] || shell=$(command -v bash) || shell=/bin/sh
export SHELL="$shell"
unset what me uid login
case $1 in
shell) exec "$shell" -l ;;
command) exec "$shell" -c "$2" ;;
escaped)
  set -- "$(printf '%b.' "$2")"
  exec "$shell" -c "${1%.}"
  ;;
esac"#;

/// Where distributions put OpenSSH's: Debian, Fedora, Alpine, others.
const SFTP_SERVERS: [&str; 4] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];

/// The words to run for it.
pub(super) fn words(start: &Start) -> Vec<OsString> {
    let mut words: Vec<String> = ["/bin/sh", "-c", SCRIPT, "kpf"].map(str::to_owned).into();
    if let Some((term, _)) = &start.pty
        && !term.is_empty()
        && !term.contains('\0')
    {
        words.push(format!("TERM={term}"));
    }
    let env = start.env.iter();
    words.extend(env.map(|(name, value)| format!("{name}={value}")));
    words.push("-".to_owned());
    match &start.program {
        Program::Sftp => {
            words.push("sftp".to_owned());
            words.extend(SFTP_SERVERS.map(str::to_owned));
        }
        Program::Shell => words.extend(["run", "shell"].map(str::to_owned)),
        Program::Command(command) => match std::str::from_utf8(command) {
            Ok(command) => words.extend(["run", "command", command].map(str::to_owned)),
            Err(_) => {
                words.extend(["run", "escaped"].map(str::to_owned));
                words.push(escaped(command));
            }
        },
    }
    words.into_iter().map(OsString::from).collect()
}

/// For `printf %b`: every byte as an octal number of three digits.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\0{byte:03o}")).collect()
}
