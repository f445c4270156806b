//! Command lines as people write them.

use std::path::PathBuf;

use super::*;
use crate::cluster::Stdin;

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
        let [Wanted::Target(only)] = &args.forwards.wanted[..] else {
            panic!("{line}: {:?}", args.forwards);
        };
        assert_eq!(only.target.to_string(), "pod/web", "{line}");
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
    assert!(matches!(&args.forwards.wanted[1], Wanted::Target(db) if db.ports.len() == 2));
    assert_eq!(
        args.address,
        [Address::Localhost, "10.0.0.1".parse().unwrap()]
    );
    assert!(args.allow_partial);
    assert_eq!(args.reach.transport, Transport::Spdy);
}

#[test]
fn forwards_have_names() {
    let named = |name: &str| Wanted::Named(name.to_owned());
    for (line, wanted, file) in [
        ("kpf forward @db", vec![named("db")], None),
        ("kpf @db @shop -n x", vec![named("db"), named("shop")], None),
        ("kpf -f - @db", vec![named("db")], Some("-")),
        ("kpf forward -f a.yaml", vec![], Some("a.yaml")),
        (
            "kpf forward --filename=a.yaml @b",
            vec![named("b")],
            Some("a.yaml"),
        ),
    ] {
        let file = file.map(PathBuf::from);
        let command = Vec::new();
        let expected = Forwards {
            wanted,
            file,
            command,
        };
        assert_eq!(forward(line).forwards, expected, "{line}");
    }
    for line in ["kpf forward", "kpf forward -n shop"] {
        let error = parse(line).err().and_then(|error| complaint(&error));
        let error = error.unwrap_or_default();
        assert!(
            error.starts_with("TYPE/NAME and list of ports are required"),
            "{line}: {error}"
        );
    }
}

#[test]
fn global_flags_stand_anywhere_and_the_last_one_wins() {
    let global =
        parsed("kpf -n a --as-group x -v=3 connect -n b web 22 --as-group y -v6 --kubeconfig=f")
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
        let ExecTarget::Named(target) = &args.command.target else {
            panic!("{line}");
        };
        assert_eq!(target.to_string(), "pod/web", "{line}");
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
                "remote port must be > 0 (usage: kpf forward [OPTIONS] {TARGET [[ADDR:]LOCAL:]REMOTE... | @NAME}... [-- COMMAND [ARGS]...])",
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
        let environment = Environment::from_iter([("KUBECTL_PORT_FORWARD_WEBSOCKETS", variable)]);
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
