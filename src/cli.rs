//! The command line: clap types only, in kubectl's words.
//!
//! Flags that kubectl has are spelled and read as kubectl's are: Go's durations and booleans, the last of two
//! equal flags wins, global flags may stand before or after the command. What clap can't express is in `words`.

pub mod completion;
mod gateway;
mod global;
mod proxy;
mod scripting;
mod ssh_config;
mod survive;
mod values;
mod via;
mod words;

use std::ffi::OsString;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::cluster::target::Target;
use crate::cluster::target::ports::{Address, RemotePort};
use crate::cluster::{Alias, Environment};

pub use self::gateway::{
    AuditArgs, AuditCommand, CheckArgs, GatewayArgs, GatewayCommand, ManifestsArgs, ReplayArgs,
    ServiceType, VerifyArgs,
};
pub use self::global::GlobalArgs;
pub use self::proxy::ProxyArgs;
pub use self::scripting::{Output, ScriptArgs, Stop};
pub use self::ssh_config::{KnownHostsArgs, SshConfigArgs};
pub use self::survive::{Balance, SurviveArgs};
pub use self::via::{Via, ViaArgs};
pub use self::words::{ExecCommand, ExecTarget, Forward, Forwards, Wanted};

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
        if words::lacks_its_command(&words) {
            return Err(clap::Error::raw(
                ErrorKind::MissingRequiredArgument,
                "no COMMAND follows `--`",
            ));
        }
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
///
/// That of bash, zsh and fish asks `kpf complete` what may come next, and so knows pods and ports; those of other shells
/// know commands and flags.
pub fn completion_script(shell: clap_complete::Shell) -> Vec<u8> {
    match shell {
        clap_complete::Shell::Bash => include_bytes!("cli/completion/kpf.bash").to_vec(),
        clap_complete::Shell::Zsh => include_bytes!("cli/completion/_kpf").to_vec(),
        clap_complete::Shell::Fish => include_bytes!("cli/completion/kpf.fish").to_vec(),
        other => {
            let mut script = Vec::new();
            clap_complete::generate(other, &mut Cli::command(), "kpf", &mut script);
            script
        }
    }
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Forward local ports to pods
    #[command(
        visible_alias = "port-forward",
        override_usage = "kpf forward [OPTIONS] {TARGET [[ADDR:]LOCAL:]REMOTE... | @NAME}... [-- COMMAND [ARGS]...]",
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
    /// Serve SSH: sessions in pods, and jumps to them, through one port
    #[command(after_long_help = gateway::HELP, args_conflicts_with_subcommands = true)]
    Gateway(GatewayArgs),
    /// Serve SOCKS5 and HTTP CONNECT into the cluster
    #[command(after_long_help = proxy::HELP)]
    Proxy(ProxyArgs),
    /// Try the whole way to a pod, step by step, and say what to do
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Print or install what ssh, scp and rsync need to reach pods
    #[command(after_long_help = SSH_CONFIG_HELP)]
    SshConfig(SshConfigArgs),
    /// The pinned host keys of a pod, for ssh's KnownHostsCommand
    #[command(hide = true)]
    KnownHosts(KnownHostsArgs),
    /// What may come next on a command line, for the completion scripts
    #[command(hide = true)]
    Complete(CompleteArgs),
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

    /// What scripts need.
    #[command(flatten)]
    pub script: ScriptArgs,

    /// How connections are kept.
    #[command(flatten)]
    pub survive: SurviveArgs,

    /// How streams are made.
    #[command(flatten)]
    pub via: ViaArgs,

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

    /// A port's number, or the name that the pod or service gives it; HOST:PORT or unix:/PATH as the container sees it
    pub port: RemotePort,

    /// This is ssh's ProxyCommand: note for `kpf known-hosts` which pod is reached
    #[arg(long)]
    pub ssh: bool,

    /// A name for a context, to be used in OBJECT.NAMESPACE.ALIAS.kpf; may be given more than once
    #[arg(long, value_name = "ALIAS=CONTEXT")]
    pub alias: Vec<Alias>,

    /// How the stream is made.
    #[command(flatten)]
    pub via: ViaArgs,

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

    /// What stdout is: json for one event per line, the command's output among them
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "tty")]
    pub output: Option<Output>,

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

    /// Fail unless all of stdin has arrived; only with -i and without -t, and with sh, tee and wc in the container
    ///
    /// Some runtimes lose the end of a command's stdin and report success. With this the container counts the bytes, and
    /// a count that isn't kpf's own is a failure with code 74. The command runs under a shell, whose words stand for the
    /// runtime's if there is no such program; it ends no sooner than stdin does.
    #[arg(long)]
    pub verify: bool,

    /// End the command by SIGHUP if kpf ends before it, by a signal or a lost connection; needs sh in the container
    ///
    /// No container runtime ends a command when its client goes away. With this the command runs under a shell that says
    /// its process id and then becomes the command, and a second exec sends the signal to its process group.
    #[arg(long)]
    pub hang_up: bool,

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

/// `kpf doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    /// The pod, or what leads to one; without it, only the way to the API server is tried
    pub target: Option<Target>,

    /// A port's number, or the name that the pod or service gives it
    pub port: Option<RemotePort>,

    /// What stdout is: json for one value with all steps
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,

    /// How long to wait for a pod that is ready, as in 30s or 1m30s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::pod_running_timeout)]
    pub pod_running_timeout: Duration,
}

/// `kpf complete`.
#[derive(Args)]
pub struct CompleteArgs {
    /// Who asks
    pub shell: clap_complete::Shell,

    /// The line up to the cursor, the program's name first
    #[arg(last = true)]
    pub words: Vec<OsString>,
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

const ROOT_HELP: &str = "\
Examples:
  kpf svc/web 8080:80                         forward localhost:8080 to port 80 of a service
  kpf forward pod/web 8080:80 svc/db 5432     two targets at once
  ssh -o ProxyCommand='kpf connect %h %p' web.shop.kpf
  kpf exec -it deploy/api -- sh               a shell in a pod of a deployment

A first word that is no command starts a forward. A pod that is named like a command is written pod/NAME.

Files: ~/.kube/config the kubeconfig, unless --kubeconfig or KUBECONFIG names others; ~/.config/kpf/forwards.yaml the \
forwards that have names; ~/.local/state/kpf/known_hosts host keys of pods, ~/.local/state/kpf/forwards those in the background.

Environment: KUBECONFIG, HTTPS_PROXY and NO_PROXY as kubectl has them; KUBECTL_PORT_FORWARD_WEBSOCKETS=false and \
KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false for SPDY; XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_RUNTIME_DIR for kpf's own files.

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
  kpf forward pod/web 5432:db.internal:5432   a host that the pod can reach
  kpf forward pod/web 2375:unix:/run/d.sock   a unix socket in its container
  kpf forward pod/db unix:/tmp/db.sock:5432   a local unix socket, mode 0600, removed at the end
  kpf forward svc/web 8080:80 shop/svc/db 5432
                                              two targets, the second one in namespace shop
  kpf forward @db @shop                       by name, from ~/.config/kpf/forwards.yaml
  kpf forward -f forwards.yaml                all forwards of a file
  kpf forward svc/db :5432 -- sh -c 'pg_dump -h 127.0.0.1 -p $KPF_PORT_5432'
                                              a command that lives as long as the forward, and its exit code
  kpf forward --background svc/web 8080:80    returns when it is ready; --list shows it, --stop ends it
  kpf forward -o json svc/web :80             events for programs, one per line

The forwards file:
  version: 1
  forwards:
    db:                                       # what @db stands for
      target: svc/postgres                    # any TARGET
      ports: [5432, \"unix:/tmp/db.sock:5432\"]
      context: prod                           # these may be left out, for what the flags say
      namespace: shop
      address: [localhost, 10.0.0.5]
      via: exec
      container: app
    web: {target: shop/deploy/web, ports: [8080:http]}
  groups:
    shop: [db, web]                           # forwards and other groups

COMMAND sees KPF_PORT_<REMOTE> and KPF_ADDRESS_<REMOTE> for each port, <REMOTE> as it was written, in capitals and with _ \
for what is no letter or digit (KPF_PORT_5432, KPF_ADDRESS_HTTPS), and KPF_PORT and KPF_ADDRESS for the first one. The \
address is HOST:PORT, or a socket's path. stdout is COMMAND's alone.

JSON lines have version (1), seq, time and type: listening (target, pod, address, port, remote), ready, opened \
(connection, target, local, remote), closed (connection, pod, sent, received, error), state (target, state, pod, \
message; state is lost, gone, connected, moved, waiting or resumed), ended (code, error). A gap in seq tells of lines that \
were not read in time.

Exit codes: 0 ended by Ctrl-C, 1 any failure, 129 and 143 ended by SIGHUP and SIGTERM; with COMMAND its own, 126 if it \
can't be run, 127 if it isn't found.

Environment: NOTIFY_SOCKET is told READY=1 (sd_notify(3)).";

const CONNECT_HELP: &str = "\
Examples:
  kpf connect shop/web 22                     port 22 of the pod web in namespace shop
  echo PING | kpf connect svc/redis 6379
  kpf connect web unix:/run/app.sock          a unix socket in the container

  For `ssh web.shop.kpf` run `kpf ssh-config --write` once, or write in ~/.ssh/config:
    Host *.kpf
      ProxyCommand kpf connect %h %p

  A container without a running sshd, but with its program:
    ProxyCommand kpf connect --via-command '/usr/sbin/sshd -i -e' %h %p

Exit codes: 0 success, 1 wrong usage or any other failure, 68 no such pod or it is not running, 69 the cluster can't be \
reached, 74 lost while connected, 77 forbidden or not logged in, 111 the pod refused the port, 141 nobody reads stdout.";

const EXEC_HELP: &str = "\
Examples:
  kpf exec web -- ls -l /srv                  run a command in the pod web
  kpf exec -it deploy/api -c app -- sh        a shell in the container app of a pod of the deployment
  kpf exec -i db-0 -- psql < dump.sql         stdin for the command, byte by byte
  kpf exec shop/web -- tar cz /srv > srv.tgz  its output in a file
  kpf exec -i --verify web -- tar xz < srv.tgz
                                              a failure if the runtime loses some of it
  kpf exec -o json web -- df -k | jq -r 'select(.type == \"output\").text'

JSON lines have version (1) and type: started (namespace, pod, container), output (stream, and text, or base64 where it \
is no UTF-8), exited (code). A connection that is lost has no exited line.

Exit codes: the command's own, with a line on stderr if it is not 0; 1 wrong usage or any other failure; 74 the \
connection ended before the command's exit status came, stdin or stdout failed, or --verify did; 141 nobody reads stdout.";

const DOCTOR_HELP: &str = "\
Examples:
  kpf doctor                                  kubeconfig, credential, network, TLS, API server, rights
  kpf doctor svc/web 80                       and the pod, both transports, and whether the port answers
  kpf doctor -o json svc/web | jq '.steps[] | select(.verdict == \"failed\")'

JSON: version (1), healthy, and steps, each with name, verdict (ok, warning, failed or skipped), what, milliseconds and \
advice.

Exit codes: 0 nothing has failed, 1 something has.";

const SSH_CONFIG_HELP: &str = "\
Examples:
  kpf ssh-config                              what goes into ~/.ssh/config
  kpf ssh-config --write                      puts it there, at the beginning; again to bring it up to date
  kpf ssh-config --write --dry-run            shows the file as it would be
  kpf ssh-config --remove                     takes it out again
  kpf ssh-config --write --alias eks=arn:aws:eks:eu-west-1:1:cluster/prod
                                              for web.shop.eks.kpf
  kpf ssh-config --gateway me@gw.example:2222 pods through a gateway, without a kubeconfig

  ssh root@web.shop.kpf                       the pod web in namespace shop
  scp dump.sql root@db-0.shop.prod.kpf:       in the context prod
  rsync -a dir/ root@deploy_api.shop.kpf:dir/ a pod of a deployment

Files: ~/.ssh/config.kpf-backup has the file's last state; ~/.local/state/kpf/known_hosts the host keys of pods, each \
pinned to the pod's uid when it was first seen. `ssh-keygen -R UID -f` that file forgets one. KnownHostsCommand needs \
OpenSSH 8.5.";

const COMPLETIONS_HELP: &str = "\
Examples:
  source <(kpf completions bash)
  kpf completions zsh > \"${fpath[1]}/_kpf\"
  kpf completions fish > ~/.config/fish/completions/kpf.fish";

#[cfg(test)]
mod tests;
