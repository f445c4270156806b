//! The real kubectl against the playground: the judge of whether the playground is one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::playground::faults::Messages;
use crate::playground::{Options, Playground, kubeconfig, ports};
use crate::tools;

/// kubectl is slow to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    WebSocket,
    Spdy,
}

const TRANSPORTS: [Transport; 2] = [Transport::WebSocket, Transport::Spdy];

fn playground(version: &str) -> Playground {
    let options = Options {
        server_version: version.to_owned(),
        ..Options::default()
    };
    Playground::start(options).expect("a playground")
}

/// kubectl with nothing of the person who runs the test.
fn kubectl(program: &Path, playground: &Playground, user: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", playground.folder())
        .env("KUBECONFIG", playground.kubeconfig())
        .args(["--context", &kubeconfig::context(user)])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn run(program: &Path, playground: &Playground, user: &str, arguments: &[&str]) -> Output {
    let mut command = kubectl(program, playground, user, arguments);
    command.arg("--request-timeout=30s");
    command.output().expect("kubectl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A `kubectl port-forward` that is ended when it is dropped.
struct Forward {
    child: Child,
    ports: Vec<u16>,
}

impl Forward {
    /// Starts it and waits for a `Forwarding from 127.0.0.1:LOCAL -> REMOTE` for each of the ports; what kubectl says
    /// instead is the error.
    fn start(
        program: &Path,
        playground: &Playground,
        user: &str,
        transport: Transport,
        arguments: &[&str],
        count: usize,
    ) -> Result<Self, String> {
        let mut command = kubectl(
            program,
            playground,
            user,
            &["port-forward", "--address=127.0.0.1"],
        );
        if transport == Transport::Spdy {
            command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut forward = Self {
            child,
            ports: Vec::new(),
        };
        while forward.ports.len() < count {
            let Ok(line) = lines.recv_timeout(DEADLINE) else {
                // a kubectl that is still running is killed here, so that its stderr ends
                let _ = forward.child.kill();
                let mut stderr = forward.child.stderr.take().expect("a pipe");
                let mut said = String::new();
                stderr.read_to_string(&mut said).expect("text");
                return Err(said);
            };
            let port = line
                .strip_prefix("Forwarding from 127.0.0.1:")
                .and_then(|rest| rest.split(' ').next()?.parse().ok());
            forward
                .ports
                .push(port.unwrap_or_else(|| panic!("unexpected line {line:?}")));
        }
        Ok(forward)
    }

    fn connect(&self, index: usize) -> TcpStream {
        let tcp = TcpStream::connect(("127.0.0.1", self.ports[index])).expect("a listener");
        tcp.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        tcp
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every kubectl of the machine, with every transport.
fn each(mut test: impl FnMut(&Path, Transport)) {
    for program in tools::kubectls() {
        for transport in TRANSPORTS {
            test(&program, transport);
        }
    }
}

fn programs() -> Vec<PathBuf> {
    tools::kubectls()
}

#[test]
fn get_lists_pods_for_every_kind_of_user() {
    let playground = playground("1.36");
    for program in programs() {
        for user in ["admin", "cert", "plugin", "basic", "viewer"] {
            let output = run(&program, &playground, user, &["get", "pods"]);
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "{user}: {stderr}");
            let row = stdout.lines().find(|line| line.starts_with("many "));
            let row: Vec<_> = row.expect("the pod").split_whitespace().collect();
            assert_eq!(row[..3], ["many", "2/2", "Running"], "{user}");
        }
        let output = run(&program, &playground, "wrong", &["get", "pods"]);
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("You must be logged in to the server"),
            "{stderr}"
        );
        let all = [
            "get",
            "svc,deploy,rs,sts,ds,job,rc",
            "-n",
            "team-b",
            "-o",
            "name",
        ];
        let output = run(&program, &playground, "admin", &all);
        let stdout = text(&output.stdout);
        for name in [
            "service/headless",
            "deployment.apps/web",
            "job.batch/task",
            "statefulset.apps/db",
        ] {
            assert!(
                stdout.lines().any(|line| line == name),
                "{name} in {stdout}"
            );
        }
    }
}

#[test]
fn port_forward_moves_bytes_both_ways() {
    let playground = playground("1.36");
    moves_bytes_both_ways(&playground);
    playground.behave(|node| node.messages = Messages::Ragged);
    moves_bytes_both_ways(&playground);
}

fn moves_bytes_both_ways(playground: &Playground) {
    let sent: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_be_bytes).collect();
    each(|program, transport| {
        let arguments = ["pod/echo", ":7", ":13"];
        let forward = Forward::start(program, playground, "admin", transport, &arguments, 2)
            .expect("a forward");
        let expected = match transport {
            Transport::WebSocket => "websocket",
            Transport::Spdy => "spdy",
        };
        let tunnels = playground.tunnels();
        assert_eq!(tunnels.last().expect("a tunnel").transport, expected);

        let mut echo = forward.connect(0);
        let mut writer = echo.try_clone().expect("a socket");
        let upload = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&upload).expect("a reader");
        });
        let mut heard = vec![0; sent.len()];
        echo.read_exact(&mut heard).expect("all of it");
        writing.join().expect("a writer");
        assert!(heard == sent, "{transport:?}: not what was sent");

        let mut line = String::new();
        forward
            .connect(1)
            .read_to_string(&mut line)
            .expect("a line");
        assert_eq!(line, "2026-01-02T03:04:05Z\r\n");
    });
}

#[test]
fn port_forward_finds_the_pod_of_every_kind() {
    let playground = playground("1.36");
    for program in programs() {
        for (target, pods) in [
            ("web", &["web"][..]),
            ("pod/web", &["web"]),
            (
                "deploy/web",
                &["web-5d8f7c9b64-2xkqp", "web-5d8f7c9b64-t7m4w"],
            ),
            ("rs/web", &["web-5d8f7c9b64-2xkqp", "web-5d8f7c9b64-t7m4w"]),
            ("sts/db", &["db-0", "db-1"]),
            ("ds/agent", &["agent-9hq7z"]),
            ("job/task", &["task-lw8vd"]),
            ("rc/old", &["old-c4v2n"]),
            ("svc/echo", &["echo"]),
        ] {
            let port = if target == "svc/echo" { ":7" } else { ":80" };
            let arguments = [target, port];
            let forward = Forward::start(
                &program,
                &playground,
                "admin",
                Transport::WebSocket,
                &arguments,
                1,
            )
            .unwrap_or_else(|error| panic!("{target}: {error}"));
            let tunnel = playground.tunnels().pop().expect("a tunnel");
            assert!(
                pods.contains(&tunnel.pod.as_str()),
                "{target}: {}",
                tunnel.pod
            );
            drop(forward);
        }
    }
}

#[test]
fn port_forward_translates_ports() {
    let playground = playground("1.36");
    for program in programs() {
        for (target, port) in [
            ("svc/web", ":http"),
            ("svc/web", ":81"),
            ("svc/headless", ":80"),
            ("pod/many", ":web"),
            ("pod/many", ":metrics"),
        ] {
            let arguments = [target, port];
            let forward = Forward::start(
                &program,
                &playground,
                "admin",
                Transport::WebSocket,
                &arguments,
                1,
            )
            .unwrap_or_else(|error| panic!("{target} {port}: {error}"));
            let mut http = forward.connect(0);
            http.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a server");
            let mut page = String::new();
            http.read_to_string(&mut page).expect("a page");
            assert!(page.contains("It works."), "{target} {port}: {page}");
        }
        for (target, port, error) in [
            ("svc/dns", ":53", "UDP protocol is not supported for 53"),
            (
                "svc/web",
                ":99",
                "Service web does not have a service port 99",
            ),
            (
                "pod/web",
                ":nothing",
                "Pod 'web' does not have a named port 'nothing'",
            ),
            (
                "svc/external",
                ":80",
                "Service is defined without a selector",
            ),
            (
                "pod/pending",
                ":80",
                "pod is not running. Current status=Pending",
            ),
            (
                "pod/done",
                ":80",
                "pod is not running. Current status=Succeeded",
            ),
            ("pod/nothing", ":80", "pods \"nothing\" not found"),
        ] {
            let output = run(
                &program,
                &playground,
                "admin",
                &["port-forward", target, port],
            );
            let stderr = text(&output.stderr);
            assert!(
                !output.status.success() && stderr.contains(error),
                "{target} {port}: {stderr}"
            );
        }
    }
}

#[test]
fn port_forward_obeys_roles_and_versions() {
    for version in ["1.30", "1.34", "1.36"] {
        let playground = playground(version);
        for program in programs() {
            // below 1.35 `get` was enough for a WebSocket, where there was one
            let get_only = version == "1.34";
            let users = [
                ("admin", true),
                ("create-only", true),
                ("get-only", get_only),
                ("viewer", false),
            ];
            for (user, works) in users {
                let arguments = ["pod/web", ":80"];
                let forward = Forward::start(
                    &program,
                    &playground,
                    user,
                    Transport::WebSocket,
                    &arguments,
                    1,
                );
                match forward {
                    Ok(_) => assert!(works, "{user} on {version}"),
                    Err(error) => {
                        assert!(!works, "{user} on {version}: {error}");
                        assert!(error.to_lowercase().contains("forbidden"), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_refused_port_ends_kubectl() {
    let playground = playground("1.36");
    each(|program, transport| {
        let port = format!(":{}", ports::REFUSED);
        let mut forward =
            Forward::start(program, &playground, "admin", transport, &["web", &port], 1)
                .expect("a forward");
        let mut nothing = Vec::new();
        let _ = forward.connect(0).read_to_end(&mut nothing);
        assert_eq!(nothing, b"");
        let mut stderr = String::new();
        let mut pipe = forward.child.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut stderr).expect("text");
        assert!(stderr.contains("connection refused"), "{stderr}");
        assert_eq!(
            forward.child.wait().expect("an end").code(),
            Some(1),
            "{stderr}"
        );
    });
}

#[test]
fn ssh_logs_in_to_a_pod_and_leaves_nothing_behind() {
    let playground = playground("1.36");
    let (Some(ssh), Some(_)) = (tools::find("ssh"), tools::find("sshd")) else {
        return;
    };
    let Some(program) = programs().pop() else {
        return;
    };
    let login = playground.ssh().expect("an sshd");
    let arguments = ["sshd", ":22"];
    let forward = Forward::start(
        &program,
        &playground,
        "admin",
        Transport::WebSocket,
        &arguments,
        1,
    )
    .expect("a forward");
    let mut client = Command::new(ssh)
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-i",
        ])
        .arg(&login.key)
        .arg("-o")
        .arg(format!(
            "UserKnownHostsFile={}",
            login.known_hosts.display()
        ))
        .args([
            "-p",
            &forward.ports[0].to_string(),
            "-l",
            &login.user,
            "127.0.0.1",
        ])
        .arg("echo $$; exec sleep 1000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh runs");
    let mut pid = String::new();
    let stdout = client.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut pid).expect("text");
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.join("stat").exists(), "{pid:?}");
    drop(playground);
    let deadline = Instant::now() + DEADLINE;
    while process.exists() {
        assert!(
            Instant::now() < deadline,
            "the command outlives the playground"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.wait().expect("an end").code(), Some(255));
}
