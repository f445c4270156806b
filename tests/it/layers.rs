//! Who may import whom. Imports point one way, from what people type down to the bytes; this reads the sources and
//! fails where one points elsewhere. Unit tests at the end of a file may use what they like.

use std::fs;
use std::path::Path;

/// The top-level modules and which of the others each may name; a new module needs a line here.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", ANYTHING),
    ("lib", ANYTHING),
    ("commands", ANYTHING_BUT_COMMANDS),
    ("cli", &["cluster"]),
    ("complete", &["cli", "cluster", "forwards"]),
    ("ui", &["untrusted"]),
    (
        "forward",
        &["cluster", "dial", "splice", "tunnel", "untrusted"],
    ),
    (
        "ssh",
        &[
            "dial",
            "exec",
            "cluster",
            "splice",
            "tunnel",
            "untrusted",
            "yaml",
        ],
    ),
    ("exec", &["spdy", "splice", "tunnel", "untrusted"]),
    (
        "dial",
        &["cluster", "exec", "splice", "tunnel", "untrusted"],
    ),
    ("forwards", &["cluster", "untrusted", "yaml"]),
    ("openssh", &["cluster", "untrusted"]),
    ("proxy", &["cluster"]),
    ("cluster", &["untrusted"]),
    ("tunnel", &["spdy", "splice", "untrusted"]),
    ("splice", &[]),
    ("spdy", &[]),
    ("yaml", &["untrusted"]),
    ("untrusted", &[]),
];

const ANYTHING: &[&str] = &["*"];

/// Commands share what is in `commands/mod.rs`, through `super`, but not one another.
const ANYTHING_BUT_COMMANDS: &[&str] = &[
    "cli",
    "complete",
    "ui",
    "ssh",
    "exec",
    "forward",
    "dial",
    "forwards",
    "openssh",
    "proxy",
    "cluster",
    "tunnel",
    "splice",
    "spdy",
    "untrusted",
    "yaml",
];

/// Words that only some files may use: the words, whether a file (as in `spdy/frame.rs`) may, and why.
struct Reserved {
    words: &'static [&'static str],
    may: fn(&str) -> bool,
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["tokio", "kube", "hyper", "Instant::now", "SystemTime::now"],
        may: |file| !file.starts_with("spdy/"),
        why: "spdy has no IO, no clock and no Kubernetes",
    },
    Reserved {
        words: &["kube", "k8s_openapi", "hyper", "russh"],
        may: |file| {
            !file.starts_with("tunnel/") && !file.starts_with("exec/") && file != "splice.rs"
        },
        why: "a tunnel and a command are handed a byte stream, and know nothing of where it leads",
    },
    Reserved {
        words: &["clap"],
        may: |file| file.starts_with("cli") || matches!(file, "complete.rs" | "main.rs"),
        why: "only the command line knows clap",
    },
    Reserved {
        words: &["print!", "println!", "eprint!", "eprintln!"],
        may: |file| matches!(file, "ui.rs" | "main.rs"),
        why: "only ui and main print",
    },
    Reserved {
        words: &[
            "env::var",
            "env::var_os",
            "env::vars",
            "env::vars_os",
            "env::home_dir",
            "dirs",
        ],
        may: |file| file == "cluster/environment.rs",
        why: "the environment is captured once, and handed on as data",
    },
];

#[test]
fn imports_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    read(&src, "", &mut sources);
    assert!(
        sources.iter().any(|(file, _)| file == "lib.rs"),
        "the sources are not where they were"
    );
    let violations: Vec<String> = sources
        .iter()
        .flat_map(|(file, source)| violations(file, source))
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_violation_is_found() {
    for (file, source, expected) in [
        (
            "spdy/frame.rs",
            "use tokio::io;",
            "src/spdy/frame.rs:1: `tokio`: spdy has no IO",
        ),
        (
            "spdy/frame.rs",
            "\nlet now = Instant::now();",
            "src/spdy/frame.rs:2: `Instant::now`",
        ),
        (
            "spdy/mod.rs",
            "use crate::tunnel::Tunnel;",
            "`crate::tunnel` is not for spdy",
        ),
        (
            "spdy/frame.rs",
            "use super::super::cluster::Cluster;",
            "`crate::cluster` is not for spdy",
        ),
        (
            "spdy/mod.rs",
            "use super::cluster::Cluster;",
            "`crate::cluster` is not for spdy",
        ),
        (
            "tunnel/mod.rs",
            "use crate::{spdy::Connection, cluster::{Cluster, tunnel}};",
            "`crate::cluster` is not",
        ),
        (
            "tunnel/driver.rs",
            "fn f(pod: kube::Api<Pod>) {}",
            "`kube`: a tunnel and a command are handed",
        ),
        (
            "cluster/http/mod.rs",
            "crate::ui::escape(text)",
            "`crate::ui` is not for cluster",
        ),
        (
            "cluster/target/mod.rs",
            "use clap::Parser;",
            "`clap`: only the command line",
        ),
        (
            "cluster/credentials.rs",
            "std::env::var(\"HOME\")",
            "`env::var`: the environment",
        ),
        (
            "cluster/mod.rs",
            "dirs::home_dir()",
            "`dirs`: the environment",
        ),
        (
            "commands/forward.rs",
            "use crate::commands::connect;",
            "`crate::commands` is not for commands",
        ),
        (
            "dial.rs",
            "eprintln!(\"x\");",
            "`eprintln!`: only ui and main print",
        ),
        (
            "ui.rs",
            "use crate::cluster::Cluster;",
            "`crate::cluster` is not for ui",
        ),
        ("news.rs", "", "`news` has no line in LAYERS"),
        (
            "spdy/mod.rs",
            "#[cfg(test)]\nuse tokio::io;",
            "src/spdy/mod.rs:2: `tokio`",
        ),
        (
            "spdy/mod.rs",
            "#[cfg(test)]\nmod tests;\nuse tokio::io;",
            "src/spdy/mod.rs:3: `tokio`",
        ),
    ] {
        let found = violations(file, source).join("\n");
        assert!(found.contains(expected), "{file}: {source}: {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_a_violation() {
    for (file, source) in [
        (
            "spdy/frame.rs",
            "use crate::spdy::Error; // as tokio does\n/// [`crate::tunnel`]\nuse super::StreamId;",
        ),
        (
            "spdy/frame.rs",
            "fn tokio_like(now: Instant) { my_tokio::now() }",
        ),
        (
            "spdy/mod.rs",
            "#[cfg(test)]\n#[cfg(unix)]\nmod tests {\n    use tokio::io;\n}\n",
        ),
        ("spdy/tests.rs", "let begin = Instant::now();"),
        ("spdy/tests/vectors.rs", "let begin = Instant::now();"),
        ("cluster/environment.rs", "env::vars_os().collect()"),
        (
            "cluster/target/resolve/mod.rs",
            "use super::super::super::untrusted; use super::{Kind, ui};",
        ),
        (
            "commands/forward.rs",
            "use crate::{cli, dial::{self, tunnel}, ui::Ui};\nuse super::Context;",
        ),
        ("main.rs", "println!(); use kpf::cli;"),
    ] {
        assert_eq!(violations(file, source), [""; 0], "{file}: {source}");
    }
}

fn read(folder: &Path, prefix: &str, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            read(&path, &format!("{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn violations(file: &str, source: &str) -> Vec<String> {
    let layer = file.split(['/', '.']).next().unwrap();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{file}: `{layer}` has no line in LAYERS")];
    };
    if file.ends_with("/tests.rs") || file.contains("/tests/") {
        return Vec::new();
    }
    let code = without_comments_and_tests(source);
    let mut found = Vec::new();
    for (at, module) in top_level_modules(file, &code) {
        let itself = module == layer && layer != "commands";
        if !itself && *allowed != ANYTHING && !allowed.contains(&module.as_str()) {
            found.push((at, format!("`crate::{module}` is not for {layer}")));
        }
    }
    for reserved in RESERVED.iter().filter(|reserved| !(reserved.may)(file)) {
        for word in reserved.words {
            found.extend(places(&code, word).map(|at| (at, format!("`{word}`: {}", reserved.why))));
        }
    }
    let line = |at: usize| code[..at].matches('\n').count() + 1;
    found
        .into_iter()
        .map(|(at, what)| format!("src/{file}:{}: {what}", line(at)))
        .collect()
}

/// The code that is built into the crate, line by line as it was.
fn without_comments_and_tests(source: &str) -> String {
    let mut code = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            let mut rest = lines.clone().skip_while(|line| line.starts_with("#["));
            if rest
                .next()
                .is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
            {
                break; // by the rules of the house the last thing in a file
            }
        }
        code += match line.trim_start().starts_with("//") {
            true => "",
            false => line.split(" // ").next().unwrap(),
        };
        code.push('\n');
    }
    code
}

/// The top-level modules that are named, by `crate::` or by enough `super::`, and where.
fn top_level_modules(file: &str, code: &str) -> Vec<(usize, String)> {
    let depth = file.trim_end_matches("/mod.rs").split('/').count();
    let roots = ["crate::".to_owned(), "super::".repeat(depth)];
    let mut modules = Vec::new();
    for root in &roots {
        for (at, _) in code.match_indices(root.as_str()) {
            if code[..at].ends_with(|c: char| is_word(c) || c == ':' || c == '$') {
                continue;
            }
            let path = &code[at + root.len()..];
            match path.strip_prefix('{') {
                Some(group) => modules.extend(heads(group).into_iter().map(|head| (at, head))),
                None => modules.push((at, head(path))),
            }
        }
    }
    modules.retain(|(_, module)| {
        module.starts_with(|c: char| c.is_ascii_lowercase()) && module != "super"
    });
    modules
}

/// The first word of every path in `a::b, c::{d, e}, f}`.
fn heads(group: &str) -> Vec<String> {
    let mut heads = vec![head(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(head(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| is_word(*c))
        .collect()
}

fn places(code: &str, word: &str) -> impl Iterator<Item = usize> {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
        })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
