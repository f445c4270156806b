//! Much data, intact, both ways; and back-pressure.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::{TRANSPORTS, exec, kpf, playground, run, wait};

const MEGABYTE: usize = 1 << 20;
const SIZE: usize = 100 * MEGABYTE;

/// Bytes of every value, in an order that tells where something is missing.
fn pattern(index: usize) -> Vec<u8> {
    let words = MEGABYTE / 8;
    let counters = (index * words..(index + 1) * words).map(|n| (n as u64).to_be_bytes());
    counters.flatten().collect()
}

/// The same in coreutils' words.
fn checksum(path: &std::path::Path) -> String {
    let output = std::process::Command::new("sha256sum")
        .stdin(File::open(path).unwrap())
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn a_hundred_megabytes_in_and_out() {
    let playground = playground();
    let file = playground.folder().join("data");
    let mut data = File::create(&file).unwrap();
    for index in 0..SIZE / MEGABYTE {
        data.write_all(&pattern(index)).unwrap();
    }
    let expected = checksum(&file);
    for transport in TRANSPORTS {
        let arguments = ["-i", "web", "--", "sha256sum"];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        command.stdin(File::open(&file).unwrap());
        let ended = run(command, None);
        assert_eq!(ended.stdout(), expected, "{transport:?}: {}", ended.stderr);
        assert_eq!(ended.code, Some(0));

        let arguments = ["web", "--", "cat", file.to_str().unwrap()];
        let command = exec(kpf(), &playground, "admin", transport, &arguments);
        let ended = run(command, None);
        assert_eq!(ended.stdout.len(), SIZE, "{transport:?}: {}", ended.stderr);
        for index in 0..SIZE / MEGABYTE {
            let got = &ended.stdout[index * MEGABYTE..(index + 1) * MEGABYTE];
            assert!(got == pattern(index), "{transport:?}: megabyte {index}");
        }
        assert_eq!(ended.code, Some(0));
    }
}

/// Both directions at once, through a pipe, stderr among it.
#[test]
fn what_comes_back_is_what_went_there() {
    let playground = playground();
    let data: Vec<u8> = (0..16).flat_map(pattern).collect();
    for transport in TRANSPORTS {
        let arguments = ["-i", "web", "--", "sh", "-c", "tee /dev/stderr"];
        let command = exec(kpf(), &playground, "admin", transport, &arguments);
        let ended = run_binary(command, &data);
        assert!(ended.0 == data, "{transport:?}: stdout differs");
        assert!(ended.1 == data, "{transport:?}: stderr differs");
    }
}

fn run_binary(mut command: std::process::Command, stdin: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut errors = child.stderr.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || input.write_all(stdin));
        let stdout = scope.spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).map(|_| bytes)
        });
        let stderr = scope.spawn(move || {
            let mut bytes = Vec::new();
            errors.read_to_end(&mut bytes).map(|_| bytes)
        });
        assert_eq!(wait(&mut child).code(), Some(0));
        (
            stdout.join().unwrap().unwrap(),
            stderr.join().unwrap().unwrap(),
        )
    })
}

/// Item 103: a slow reader gets every byte before the status counts, and kpf doesn't store them for it.
#[test]
fn a_slow_reader_gets_all_of_it() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = [
            "web",
            "--",
            "sh",
            "-c",
            "head -c 10000000 /dev/zero; exit 8",
        ];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut buffer = vec![0; 256 * 1024];
        let mut length = 0;
        let mut peak = 0;
        loop {
            let read = stdout.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            length += read;
            if length < 2_000_000 {
                thread::sleep(Duration::from_millis(5)); // the slow part
            }
            peak = peak.max(resident(child.id()));
        }
        assert_eq!(length, 10_000_000, "{transport:?}");
        assert_eq!(wait(&mut child).code(), Some(8), "{transport:?}");
        assert!(peak < 64 << 20, "{transport:?}: {peak} bytes");
    }
}

/// Resident bytes of a process.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.map_or(0, |text| text.trim().parse::<usize>().unwrap() * 1024)
}
