//! The block for ssh_config that makes `ssh web.shop.kpf` work.

use std::fmt::Write as _;

use thiserror::Error;

use crate::untrusted::printable;

/// The first line of a block.
pub const BEGIN: &str = "# >>> kpf ssh-config >>>";
/// The last line of a block.
pub const END: &str = "# <<< kpf ssh-config <<<";

/// How ssh gets to pods.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// By this program: its path, absolute as KnownHostsCommand has to be, and the words between `connect` and the host.
    Connect {
        /// The program.
        program: String,
        /// Flags, as `--context prod`.
        flags: Vec<String>,
    },
    /// Through a gateway, as ssh calls it: `[USER@]HOST[:PORT]`.
    Gateway(String),
}

/// Why there is no block.
#[derive(Debug, Error)]
pub enum Error {
    /// A line of ssh_config has no way to say it.
    #[error("`{}` can't stand in ssh_config: it has a control character or a quote that doesn't end", printable(.0, 100))]
    Unquotable(String),
    /// No host.
    #[error("`{}` is no gateway: write [USER@]HOST[:PORT], and not a name that ends in .kpf", printable(.0, 100))]
    Gateway(String),
}

/// The block, its marks and a last line break included.
///
/// # Errors
/// A word can't be said in ssh_config.
pub fn block(way: &Way) -> Result<String, Error> {
    let mut text = format!(
        "{BEGIN}\n\
         # Made by `kpf ssh-config`: what is changed in here is lost with the next --write; --remove takes it out.\n\
         Host *.kpf\n"
    );
    match way {
        Way::Connect { program, flags } => {
            let program = quoted(program)?;
            let mut connect = format!("{program} connect --ssh");
            for flag in flags {
                connect = format!("{connect} {}", quoted(flag)?);
            }
            let _ = write!(
                text,
                "  ProxyCommand {connect} %h %p\n\
                 \x20 # Host keys are pinned to the pod's uid when they are first seen: a new pod of the same name is no\n\
                 \x20 # stranger, and another key for the same pod is refused.\n\
                 \x20 KnownHostsCommand {program} known-hosts %I %H %t %K\n\
                 \x20 StrictHostKeyChecking yes\n\
                 \x20 UserKnownHostsFile none\n\
                 \x20 UpdateHostKeys no\n"
            );
        }
        Way::Gateway(gateway) => {
            if !is_jump_host(gateway) {
                return Err(Error::Gateway(gateway.clone()));
            }
            let _ = writeln!(text, "  ProxyJump {gateway}");
        }
    }
    // Without multiplexing each scp is a login of its own; Windows' OpenSSH has none.
    if cfg!(unix) {
        text += "  ControlMaster auto\n  ControlPath ~/.ssh/kpf-%C\n  ControlPersist 60\n";
    }
    text += "  ServerAliveInterval 30\n  ServerAliveCountMax 3\n";
    // What follows in the file was for all hosts, and still is.
    text += "Host *\n";
    text += END;
    text.push('\n');
    Ok(text)
}

/// A word for ssh's own splitting and for a shell, with ssh's `%` doubled.
fn quoted(word: &str) -> Result<String, Error> {
    let unquotable = || Error::Unquotable(word.to_owned());
    if word.chars().any(char::is_control) {
        return Err(unquotable());
    }
    let quoted = shlex::try_quote(word).map_err(|_| unquotable())?;
    Ok(quoted.replace('%', "%%"))
}

/// What ssh takes as a jump host, so that no further option gets in.
fn is_jump_host(gateway: &str) -> bool {
    let host = gateway.rsplit_once('@').map_or(gateway, |(_, host)| host);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@:[]+".contains(c);
    !host.is_empty()
        && !gateway.starts_with('-')
        && !host.starts_with('-')
        && gateway.chars().all(is_plain)
        && !host.split(':').any(|part| part.ends_with(".kpf"))
        && gateway != "none"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(program: &str, flags: &[&str]) -> Result<String, Error> {
        block(&Way::Connect {
            program: program.to_owned(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        })
    }

    #[test]
    fn words_are_for_ssh_and_for_a_shell() {
        let text = connect("/usr/bin/kpf", &["--context", "prod"]).unwrap();
        assert!(
            text.contains("\n  ProxyCommand /usr/bin/kpf connect --ssh --context prod %h %p\n"),
            "{text}"
        );
        assert!(
            text.contains("\n  KnownHostsCommand /usr/bin/kpf known-hosts %I %H %t %K\n"),
            "{text}"
        );
        let text = connect("/a b/50%/kpf", &["x'y"]).unwrap();
        assert!(
            text.contains("ProxyCommand '/a b/50%%/kpf' connect --ssh \"x'y\" %h"),
            "{text}"
        );
        assert!(connect("/a\nProxyCommand rm/kpf", &[]).is_err());
    }

    #[test]
    fn host_keys_are_never_ignored() {
        let ways = [
            connect("/kpf", &[]).unwrap(),
            block(&Way::Gateway("gw".to_owned())).unwrap(),
        ];
        for text in ways {
            assert!(!text.contains("/dev/null"), "{text}");
            assert!(!text.contains("StrictHostKeyChecking no"), "{text}");
            assert!(
                text.starts_with(BEGIN) && text.ends_with(&format!("\nHost *\n{END}\n")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_gateway_is_a_jump_host() {
        for good in ["gw", "me@gw.example:2222", "[::1]:22", "10.0.0.1"] {
            let text = block(&Way::Gateway(good.to_owned())).unwrap();
            assert!(text.contains(&format!("\n  ProxyJump {good}\n")), "{text}");
        }
        for bad in [
            "",
            "-oX",
            "me@",
            "me@-x",
            "a b",
            "gw\nHost",
            "web.shop.kpf",
            "x.kpf:22",
            "a,b",
            "none",
        ] {
            let error = block(&Way::Gateway(bad.to_owned())).unwrap_err();
            assert!(error.to_string().contains("is no gateway"), "{bad}");
        }
    }
}
