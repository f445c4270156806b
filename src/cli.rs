//! The command line: clap types only, in kubectl's words.
//!
//! Flags that kubectl has are spelled and read as kubectl's are: Go's durations and booleans, the last of two
//! equal flags wins, global flags may stand before or after the command. What clap can't express is in `words`.

mod values;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::cluster::target::Target;
use crate::cluster::target::ports::{Address, RemotePort};
use crate::cluster::{Environment, Options, Stdin};

pub use self::words::{ExecCommand, Forward, Forwards};

/// Reach ports and processes inside Kubernetes pods
#[derive(Parser)]
#[command(
    name = "kpf",
    version,
    args_override_self = true,
    subcommand_required = true,
    arg_required_else_help = true,
    override_usage = "kpf [OPTIONS] COMMAND\n       kpf [OPTIONS] TARGET [[ADDR:]LOCAL:]REMOTE...",
    after_long_help = ROOT_HELP
)]
pub struct Cli {
    /// Which cluster, and as whom.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line, its first word being the program's name.
    ///
    /// # Errors
    ///
    /// clap's error, which also stands for `--help` and `--version`; see [`exit_code`].
    pub fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut root = Self::command();
        let words = words::command_first(&root, words.into_iter().collect());
        let mut matches = root.try_get_matches_from_mut(words)?;
        let command = matches.subcommand_name().map(str::to_owned);
        Self::from_arg_matches_mut(&mut matches).map_err(|error| {
            match command.and_then(|name| root.find_subcommand_mut(name)) {
                Some(command) => error.format(command),
                None => error,
            }
        })
    }
}

/// The exit code of an error of [`Cli::parse_words`]: 0 for help and version, else 1 as kubectl has it (clap
/// would say 2).
pub fn exit_code(error: &clap::Error) -> u8 {
    u8::from(error.use_stderr())
}

/// What is wrong with a command line, as one line: clap's paragraphs, with the usage in parentheses. `None` for help
/// and version, which are no errors.
pub fn complaint(error: &clap::Error) -> Option<String> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let lines: Vec<_> = paragraph.lines().map(str::trim).collect();
        lines.join(" ")
    });
    let mut complaint = String::new();
    for paragraph in paragraphs {
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            complaint += &format!(" (usage: {usage})");
        } else if paragraph.starts_with("For more information") {
            // the usage, or what is wrong with a value, says enough
        } else if complaint.is_empty() {
            complaint = paragraph;
        } else {
            complaint += &format!("; {paragraph}");
        }
    }
    Some(complaint)
}

/// The script that completes `kpf` in this shell; the package has the same under `completions/`.
pub fn completion_script(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kpf", &mut script);
    script
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Forward local ports to pods
    #[command(
        visible_alias = "port-forward",
        override_usage = "kpf forward [OPTIONS] TARGET [[ADDR:]LOCAL:]REMOTE... [TARGET PORTS...]...",
        after_long_help = FORWARD_HELP
    )]
    Forward(ForwardArgs),
    /// Attach stdin and stdout to one port of a pod, for ssh's ProxyCommand
    #[command(after_long_help = CONNECT_HELP)]
    Connect(ConnectArgs),
    /// Run a command in a container of a pod
    #[command(
        override_usage = "kpf exec [OPTIONS] TARGET -- COMMAND [ARGS]...",
        after_long_help = EXEC_HELP
    )]
    Exec(ExecArgs),
    /// Print the completion script of a shell
    #[command(after_long_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell to complete in
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}

/// `kpf forward`.
#[derive(Args)]
pub struct ForwardArgs {
    /// What to forward.
    #[command(flatten)]
    pub forwards: Forwards,

    /// Addresses to listen on, comma separated: IP addresses, or localhost for 127.0.0.1 and ::1
    #[arg(
        long,
        value_name = "ADDR,...",
        value_delimiter = ',',
        default_value = "localhost"
    )]
    pub address: Vec<Address>,

    /// Go on if some of the ports can't be bound, as kubectl does
    #[arg(long)]
    pub allow_partial: bool,

    /// How to reach the pod.
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// `kpf connect`.
#[derive(Args)]
pub struct ConnectArgs {
    /// The pod, or what leads to one: NAME, TYPE/NAME, NAMESPACE/NAME, NAMESPACE/TYPE/NAME or
    /// OBJECT.NAMESPACE[.CONTEXT].kpf
    pub target: Target,

    /// A port's number, or the name that the pod or service gives it
    pub port: RemotePort,

    /// How to reach the pod.
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// `kpf exec`.
#[derive(Args)]
pub struct ExecArgs {
    /// What to run, and where.
    #[command(flatten)]
    pub command: ExecCommand,

    /// Container to run it in, also an init or ephemeral one [default: the annotation
    /// kubectl.kubernetes.io/default-container names it, else the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,

    /// Pass stdin to the command
    #[arg(
        short = 'i',
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_parser = values::boolean,
        action = ArgAction::Set
    )]
    pub stdin: bool,

    /// Run it in a terminal, if stdin is one; only with -i
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_parser = values::boolean,
        action = ArgAction::Set
    )]
    pub tty: bool,

    /// Say nothing about the choice of a container, nor about a terminal that can't be used
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_parser = values::boolean,
        action = ArgAction::Set
    )]
    pub quiet: bool,

    /// How to reach the pod.
    #[command(flatten)]
    pub reach: ReachArgs,
}

impl ExecArgs {
    /// The container that was asked for. An empty name counts as none, as in kubectl.
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref().filter(|name| !name.is_empty())
    }
}

/// What every command that dials a pod has.
#[derive(Args, Clone, Copy, Debug)]
pub struct ReachArgs {
    /// How long to wait for a pod that is ready, as in 30s or 1m30s
    #[arg(long, value_name = "DURATION", default_value = "1m0s", value_parser = values::pod_running_timeout)]
    pub pod_running_timeout: Duration,

    /// The protocol to the cluster: websocket, spdy, or websocket first and spdy if that is refused
    ///
    /// KUBECTL_PORT_FORWARD_WEBSOCKETS=false, or KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false for exec, makes auto mean spdy,
    /// as it does for kubectl.
    #[arg(
        long,
        value_name = "PROTOCOL",
        default_value = "auto",
        hide_possible_values = true
    )]
    transport: Transport,
}

impl ReachArgs {
    /// The flag's transport, or what kubectl's environment variable makes of `auto`.
    pub fn transport(&self, streaming: Streaming, environment: &Environment) -> Transport {
        let variable = match streaming {
            Streaming::PortForward => "KUBECTL_PORT_FORWARD_WEBSOCKETS",
            Streaming::Exec => "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
        };
        // kubectl looks for this word and nothing else, in any case
        let disabled = environment
            .text(&[variable])
            .is_some_and(|value| value.eq_ignore_ascii_case("false"));
        match self.transport {
            Transport::Auto if disabled => Transport::Spdy,
            transport => transport,
        }
    }
}

/// What is streamed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Streaming {
    /// Connections to a pod's ports.
    PortForward,
    /// A command's input and output.
    Exec,
}

/// The protocol that carries the streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Transport {
    /// WebSocket, then SPDY if that is refused.
    Auto,
    /// SPDY inside a WebSocket.
    Websocket,
    /// SPDY on the upgraded connection itself.
    Spdy,
}

/// kubectl's global flags. Has no `Debug`, for the token and the password.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Namespace to look in [default: the context's]
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,

    /// Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// How much to log to stderr, from 0 to 10
    #[arg(
        short,
        long = "v",
        global = true,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub v: u32,

    /// Cluster of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    cluster: Option<String>,

    /// User of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    user: Option<String>,

    /// Address and port of the API server
    #[arg(short, long, global = true, value_name = "URL", hide_short_help = true)]
    server: Option<String>,

    /// Bearer token
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    token: Option<String>,

    /// User name for basic authentication
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    username: Option<String>,

    /// Password for basic authentication
    #[arg(long, global = true, value_name = "PASSWORD", hide_short_help = true)]
    password: Option<String>,

    /// User to impersonate
    #[arg(
        long = "as",
        global = true,
        value_name = "USER",
        hide_short_help = true
    )]
    as_user: Option<String>,

    /// Group to impersonate; may be given more than once
    #[arg(
        long = "as-group",
        global = true,
        value_name = "GROUP",
        hide_short_help = true
    )]
    as_groups: Vec<String>,

    /// UID to impersonate
    #[arg(long, global = true, value_name = "UID", hide_short_help = true)]
    as_uid: Option<String>,

    /// Extra field to impersonate; may be given more than once
    #[arg(long, global = true, value_name = "KEY=VALUE", hide_short_help = true)]
    as_user_extra: Vec<String>,

    /// File with the certificates that the server's is checked against
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    certificate_authority: Option<PathBuf>,

    /// File with the client's certificate
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    client_certificate: Option<PathBuf>,

    /// File with the client's key
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    client_key: Option<PathBuf>,

    /// Name that the server's certificate must have [default: the host of its address]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    tls_server_name: Option<String>,

    /// Do not check the server's certificate; insecure
    #[arg(
        long,
        global = true,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_parser = values::boolean,
        action = ArgAction::Set,
        hide_short_help = true
    )]
    insecure_skip_tls_verify: bool,

    /// How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "0",
        value_parser = values::request_timeout,
        hide_short_help = true
    )]
    request_timeout: Duration,

    /// Proxy to the API server, http, https or socks5 [default: the kubeconfig's, then HTTPS_PROXY]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    proxy_url: Option<String>,

    #[command(flatten)]
    without_effect: WithoutEffect,
}

impl GlobalArgs {
    /// What the cluster layer takes: plain data, no flags. An empty value counts as not given, as in kubectl.
    pub fn to_options(&self, environment: Environment, stdin: Stdin) -> Options {
        let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let path =
            |value: &Option<PathBuf>| value.clone().filter(|value| !value.as_os_str().is_empty());
        Options {
            kubeconfig: path(&self.kubeconfig),
            context: text(&self.context),
            cluster: text(&self.cluster),
            user: text(&self.user),
            namespace: text(&self.namespace),
            server: text(&self.server),
            token: text(&self.token),
            username: text(&self.username),
            password: text(&self.password),
            as_user: text(&self.as_user),
            as_groups: self.as_groups.clone(),
            as_uid: text(&self.as_uid),
            as_user_extra: self.as_user_extra.clone(),
            certificate_authority: path(&self.certificate_authority),
            client_certificate: path(&self.client_certificate),
            client_key: path(&self.client_key),
            tls_server_name: text(&self.tls_server_name),
            insecure_skip_tls_verify: self.insecure_skip_tls_verify,
            request_timeout: Some(self.request_timeout).filter(|timeout| !timeout.is_zero()),
            proxy_url: text(&self.proxy_url),
            environment,
            stdin,
        }
    }
}

/// Flags of kubectl that change nothing in kpf, taken so that scripts need no change.
#[derive(Args)]
struct WithoutEffect {
    #[arg(long, global = true, hide = true)]
    cache_dir: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_compression: Option<String>,
    #[arg(long, global = true, hide = true)]
    kuberc: Option<String>,
    #[arg(long, global = true, hide = true)]
    log_flush_frequency: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    match_server_version: Option<String>,
    #[arg(long, global = true, hide = true)]
    profile: Option<String>,
    #[arg(long, global = true, hide = true)]
    profile_output: Option<String>,
    #[arg(long, global = true, hide = true)]
    vmodule: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    warnings_as_errors: Option<String>,
}

const ROOT_HELP: &str = "\
Examples:
  kpf svc/web 8080:80                         forward localhost:8080 to port 80 of a service
  kpf forward pod/web 8080:80 svc/db 5432     two targets at once
  ssh -o ProxyCommand='kpf connect %h %p' web.shop.kpf
  kpf exec -it deploy/api -- sh               a shell in a pod of a deployment

A first word that is no command starts a forward. A pod that is named like a command is written pod/NAME.

Exit codes: 0 success, 1 wrong usage or any other failure, 68 no such pod or it is not running, 69 the cluster can't be \
reached, 74 lost while connected, 77 forbidden or not logged in, 111 the pod refused the port, 141 nobody reads stdout. Above 1 they come from \
connect only; exec has those of the command, 74 and 141.";

const FORWARD_HELP: &str = "\
Examples:
  kpf forward pod/web 8080:80                 localhost:8080 to port 80 of the pod web
  kpf forward deploy/api 5000 6000            ports 5000 and 6000 of a pod of the deployment
  kpf forward svc/web 8443:https              the service's port https
  kpf forward pod/web :80                     any free local port
  kpf forward pod/web 0.0.0.0:8080:80         listen on all IPv4 addresses for this port
  kpf forward svc/web 8080:80 shop/svc/db 5432
                                              two targets, the second one in namespace shop";

const CONNECT_HELP: &str = "\
Examples:
  kpf connect shop/web 22                     port 22 of the pod web in namespace shop
  echo PING | kpf connect svc/redis 6379

  In ~/.ssh/config, for `ssh web.shop.kpf`:
    Host *.kpf
      ProxyCommand kpf connect %h %p

Exit codes: 0 success, 1 wrong usage or any other failure, 68 no such pod or it is not running, 69 the cluster can't be \
reached, 74 lost while connected, 77 forbidden or not logged in, 111 the pod refused the port, 141 nobody reads stdout.";

const EXEC_HELP: &str = "\
Examples:
  kpf exec web -- ls -l /srv                  run a command in the pod web
  kpf exec -it deploy/api -c app -- sh        a shell in the container app of a pod of the deployment
  kpf exec -i db-0 -- psql < dump.sql         stdin for the command, byte by byte
  kpf exec shop/web -- tar cz /srv > srv.tgz  its output in a file

Exit codes: the command's own, with a line on stderr if it is not 0; 1 wrong usage or any other failure; 74 the \
connection ended before the command's exit status came, or stdin or stdout failed; 141 nobody reads stdout.";

const COMPLETIONS_HELP: &str = "\
Examples:
  source <(kpf completions bash)
  kpf completions zsh > \"${fpath[1]}/_kpf\"
  kpf completions fish > ~/.config/fish/completions/kpf.fish";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::parse_words(line.split_whitespace().map(OsString::from))
    }

    fn parsed(line: &str) -> Cli {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn forward(line: &str) -> ForwardArgs {
        match parsed(line).command {
            Command::Forward(args) => args,
            _ => panic!("`{line}` is no forward"),
        }
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_forward_needs_no_command() {
        for line in [
            "kpf forward pod/web 8080:80",
            "kpf port-forward pod/web 8080:80",
            "kpf pod/web 8080:80",
            "kpf --context prod pod/web 8080:80 -n shop",
        ] {
            let args = forward(line);
            assert_eq!(args.forwards.0.len(), 1, "{line}");
            assert_eq!(args.forwards.0[0].target.to_string(), "pod/web", "{line}");
            assert_eq!(args.address, [Address::Localhost], "{line}");
            assert_eq!(
                args.reach.pod_running_timeout,
                Duration::from_secs(60),
                "{line}"
            );
        }
        let args = forward(
            "kpf web 80 --address localhost,10.0.0.1 --allow-partial --transport spdy svc/db 1 2",
        );
        assert_eq!(args.forwards.0[1].ports.len(), 2);
        assert_eq!(
            args.address,
            [Address::Localhost, "10.0.0.1".parse().unwrap()]
        );
        assert!(args.allow_partial);
        assert_eq!(args.reach.transport, Transport::Spdy);
    }

    #[test]
    fn global_flags_stand_anywhere_and_the_last_one_wins() {
        let global = parsed(
            "kpf -n a --as-group x -v=3 connect -n b web 22 --as-group y -v6 --kubeconfig=f",
        )
        .global;
        assert_eq!(global.namespace.as_deref(), Some("b"));
        assert_eq!(global.as_groups, ["x", "y"]);
        assert_eq!(global.v, 6);
        assert_eq!(global.kubeconfig, Some(PathBuf::from("f")));
    }

    #[test]
    fn flags_are_read_as_kubectl_reads_them() {
        let global = |flags: &str| parsed(&format!("kpf {flags} web 80")).global;
        assert!(global("--insecure-skip-tls-verify").insecure_skip_tls_verify);
        assert!(!global("--insecure-skip-tls-verify=false").insecure_skip_tls_verify);
        assert_eq!(
            global("--request-timeout 30").request_timeout,
            Duration::from_secs(30)
        );
        assert_eq!(global("").request_timeout, Duration::ZERO);
        global(
            "--cache-dir x --match-server-version --warnings-as-errors=false --disable-compression --kuberc off",
        );
        global("--log-flush-frequency 5s --vmodule a=1 --profile none --profile-output x --v 10");
    }

    #[test]
    fn wrong_usage_is_one_and_help_is_zero() {
        for (line, code, part) in [
            ("kpf", 1, "Usage: kpf"),
            ("kpf --help", 0, "Usage: kpf"),
            ("kpf forward -h", 0, "Usage: kpf forward"),
            ("kpf web 80 --help", 0, "Usage: kpf forward"),
            ("kpf --version", 0, env!("CARGO_PKG_VERSION")),
            (
                "kpf forward",
                1,
                "error: TYPE/NAME and list of ports are required for port-forward",
            ),
            (
                "kpf forward pod/web",
                1,
                "no port follows `pod/web`\n\nUsage: kpf forward",
            ),
            ("kpf forward pod/web 0", 1, "remote port must be > 0"),
            (
                "kpf forward pod/web 65536",
                1,
                "error parsing remote port '65536'",
            ),
            (
                "kpf web 80 --pod-running-timeout 0",
                1,
                "--pod-running-timeout must be higher than zero",
            ),
            ("kpf web 80 --address nohost", 1, "nohost is not a valid IP"),
            ("kpf web 80 --transport quic", 1, "invalid value 'quic'"),
            (
                "kpf web 80 --nonsense",
                1,
                "unexpected argument '--nonsense'",
            ),
            ("kpf connect web", 1, "<PORT>"),
            (
                "kpf connect web 8080:80",
                1,
                "invalid port format '8080:80'",
            ),
            ("kpf connect a//b 80", 1, "`a//b` lacks a type"),
            ("kpf completions tcsh", 1, "invalid value 'tcsh'"),
        ] {
            let error = parse(line)
                .err()
                .unwrap_or_else(|| panic!("{line} is fine"));
            assert_eq!(exit_code(&error), code, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_command_in_a_container_stands_after_two_dashes() {
        let exec = |line: &str| match parsed(line).command {
            Command::Exec(args) => args,
            _ => panic!("`{line}` is no exec"),
        };
        for (line, stdin, tty, quiet) in [
            ("kpf exec web -- ls -l", false, false, false),
            ("kpf -n shop exec web -it -- ls -l", true, true, false),
            ("kpf exec -ti web -q -- ls -l", true, true, true),
            (
                "kpf exec --stdin --tty=false web --quiet=false -- ls -l",
                true,
                false,
                false,
            ),
            ("kpf exec -i=false -t web -- ls -l", false, true, false),
        ] {
            let args = exec(line);
            assert_eq!(args.command.target.to_string(), "pod/web", "{line}");
            assert_eq!(args.command.words, ["ls", "-l"], "{line}");
            assert_eq!(
                (args.stdin, args.tty, args.quiet),
                (stdin, tty, quiet),
                "{line}"
            );
            assert_eq!(args.container(), None, "{line}");
        }
        let args = exec("kpf exec deploy/web -c app -n shop -- sh -c -i --");
        assert_eq!(args.container(), Some("app"));
        assert_eq!(args.command.words, ["sh", "-c", "-i", "--"]);
        assert_eq!(exec("kpf exec web -c= -- ls").container(), None);
    }

    #[test]
    fn wrong_usage_of_exec_is_told_in_kubectls_words() {
        for (line, error) in [
            ("kpf exec", "pod, type/name or --filename must be specified"),
            (
                "kpf exec -- ls",
                "pod, type/name or --filename must be specified",
            ),
            (
                "kpf exec web",
                "you must specify at least one command for the container",
            ),
            (
                "kpf exec web --",
                "you must specify at least one command for the container",
            ),
            (
                "kpf exec web ls",
                "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
            ),
            (
                "kpf exec web ls -- pwd",
                "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
            ),
            (
                "kpf exec web --pod-running-timeout=0 -- ls",
                "--pod-running-timeout must be higher than zero",
            ),
            ("kpf exec a//b -- ls", "`a//b` lacks a type"),
            ("kpf exec -i=maybe web -- ls", "neither true nor false"),
        ] {
            let wrong = parse(line)
                .err()
                .unwrap_or_else(|| panic!("{line} is fine"));
            assert_eq!(exit_code(&wrong), 1, "{line}");
            assert!(wrong.to_string().contains(error), "{line}: {wrong}");
        }
    }

    #[test]
    fn a_complaint_is_one_line() {
        for (line, complaint) in [
            ("kpf", None),
            ("kpf --help", None),
            (
                "kpf connect",
                Some(
                    "the following required arguments were not provided: <TARGET> <PORT> \
                     (usage: kpf connect <TARGET> <PORT>)",
                ),
            ),
            (
                "kpf connect web 22 --contxt x",
                Some(
                    "unexpected argument '--contxt' found; tip: a similar argument exists: '--context' \
                     (usage: kpf connect --context <NAME> <TARGET> <PORT>)",
                ),
            ),
            (
                "kpf web 80 --transport quic",
                Some(
                    "invalid value 'quic' for '--transport <PROTOCOL>' [possible values: auto, websocket, spdy]",
                ),
            ),
            (
                "kpf pod/web 0",
                Some(
                    "remote port must be > 0 (usage: kpf forward [OPTIONS] TARGET [[ADDR:]LOCAL:]REMOTE... \
                     [TARGET PORTS...]...)",
                ),
            ),
        ] {
            let error = parse(line)
                .err()
                .unwrap_or_else(|| panic!("{line} is fine"));
            assert_eq!(super::complaint(&error).as_deref(), complaint, "{line}");
        }
    }

    #[test]
    fn websockets_can_be_disabled_as_in_kubectl() {
        for (flag, variable, expected) in [
            ("auto", "", Transport::Auto),
            ("auto", "False", Transport::Spdy),
            ("auto", "0", Transport::Auto),
            ("websocket", "false", Transport::Websocket),
            ("spdy", "true", Transport::Spdy),
        ] {
            let args = forward(&format!("kpf web 80 --transport {flag}"));
            let environment =
                Environment::from_iter([("KUBECTL_PORT_FORWARD_WEBSOCKETS", variable)]);
            assert_eq!(
                args.reach.transport(Streaming::PortForward, &environment),
                expected,
                "{flag} {variable}"
            );
            // each has a variable of its own
            let flagged = match flag {
                "auto" => Transport::Auto,
                _ => expected,
            };
            let of_exec = args.reach.transport(Streaming::Exec, &environment);
            assert_eq!(of_exec, flagged, "{flag} {variable}");
        }
    }

    #[test]
    fn every_flag_reaches_the_cluster() {
        let all = "kpf connect web 22 --kubeconfig a --context b --cluster c --user d -n e -s f --token g --username h \
            --password i --as j --as-group k --as-uid l --as-user-extra m=n --certificate-authority o \
            --client-certificate p --client-key q --tls-server-name r --insecure-skip-tls-verify --request-timeout 9 \
            --proxy-url s";
        let options = parsed(all)
            .global
            .to_options(Environment::default(), Stdin::Taken);
        let path = |path| Some(PathBuf::from(path));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(options.kubeconfig, path("a"));
        assert_eq!(options.context, text("b"));
        assert_eq!(options.cluster, text("c"));
        assert_eq!(options.user, text("d"));
        assert_eq!(options.namespace, text("e"));
        assert_eq!(options.server, text("f"));
        assert_eq!(options.token, text("g"));
        assert_eq!(options.username, text("h"));
        assert_eq!(options.password, text("i"));
        assert_eq!(options.as_user, text("j"));
        assert_eq!(options.as_groups, ["k"]);
        assert_eq!(options.as_uid, text("l"));
        assert_eq!(options.as_user_extra, ["m=n"]);
        assert_eq!(options.certificate_authority, path("o"));
        assert_eq!(options.client_certificate, path("p"));
        assert_eq!(options.client_key, path("q"));
        assert_eq!(options.tls_server_name, text("r"));
        assert!(options.insecure_skip_tls_verify);
        assert_eq!(options.request_timeout, Some(Duration::from_secs(9)));
        assert_eq!(options.proxy_url, text("s"));
        assert_eq!(options.stdin, Stdin::Taken);
        let none = parsed("kpf web 80")
            .global
            .to_options(Environment::default(), Stdin::Free);
        assert_eq!(none.request_timeout, None);
    }
}
