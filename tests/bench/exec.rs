//! Commands in a container: how soon one is through, and what a gigabyte of its stdin and stdout costs. All of it is
//! checked by its digest, which the container computes too.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::digest::{Context as Digest, SHA256};

use crate::clients::Client;
use crate::figure::Figure;
use crate::flow::Direction;
use crate::ground::Ground;
use crate::load::{GB, MB, Samples, milliseconds};
use crate::process::{DEADLINE, Process, cpu_of_ended_children};

/// The bytes on stdout, and their digest on stderr.
const RANDOM: &str = r#"exec 3>&1; head -c "$1" /dev/urandom | tee /dev/fd/3 | sha256sum >&2"#;

/// What is read or written at once.
const BUFFER: usize = 256 * 1024;

/// `exec -- true` to its end. A whole process' CPU is known in steps of 10 ms, so it is the mean of several.
pub(crate) fn starts(client: &Client, ground: &Ground, count: u32) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let before = cpu_of_ended_children()?;
    for _ in 0..count {
        let Some(mut command) = client.command(ground, &["exec"]) else {
            return Ok(samples);
        };
        command.args(ground.pod()).args(["--", "true"]);
        let begun = Instant::now();
        let mut process = Process::start(&mut command)?;
        drop(process.stdin()?);
        finish(&mut process)?;
        samples.add(Figure::Exec, milliseconds(begun.elapsed()));
    }
    let cpu = cpu_of_ended_children()? - before;
    samples.add(Figure::ExecCpu, milliseconds(cpu) / f64::from(count));
    for _ in 0..count {
        let command = client.command(ground, &["exec"]);
        let mut command = command.context("it was one just now")?;
        command.args(ground.pod()).args(["--", "echo", "x"]);
        let begun = Instant::now();
        let mut process = Process::start(&mut command)?;
        drop(process.stdin()?);
        process.stdout()?.read_exact(&mut [0])?;
        samples.add(Figure::ExecFirstByte, milliseconds(begun.elapsed()));
        finish(&mut process)?;
    }
    Ok(samples)
}

/// So many bytes through one command.
pub(crate) fn bulk(
    client: &Client,
    ground: &Ground,
    direction: Direction,
    bytes: u64,
) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let Some(mut command) = client.command(ground, &["exec", "-i"]) else {
        return Ok(samples);
    };
    command.args(ground.pod()).arg("--");
    match direction {
        Direction::Up => command.arg("sha256sum"),
        Direction::Down => command.args(["sh", "-c", RANDOM, "sh", &bytes.to_string()]),
    };
    let before = cpu_of_ended_children()?;
    let mut process = Process::start(&mut command)?;
    let (here, there, peak) = match direction {
        Direction::Up => upload(&mut process, bytes)?,
        Direction::Down => download(&mut process, bytes)?,
    };
    anyhow::ensure!(
        there.contains(&here),
        "sha256 is {here} here, there {there}"
    );
    let cpu = cpu_of_ended_children()? - before;
    let (cost, memory) = match direction {
        Direction::Up => (Figure::StdinCpu, Figure::StdinMemory),
        Direction::Down => (Figure::StdoutCpu, Figure::StdoutMemory),
    };
    samples.add(cost, cpu.as_secs_f64() / (bytes as f64 / GB));
    samples.add(memory, peak as f64 / MB);
    Ok(samples)
}

/// Both digests, and the client's peak memory.
fn upload(process: &mut Process, bytes: u64) -> anyhow::Result<(String, String, u64)> {
    let mut stdin = process.stdin()?;
    let mut stdout = process.stdout()?;
    let mut digest = Digest::new(&SHA256);
    let mut noise = Noise(1);
    let mut buffer = vec![0; BUFFER];
    let mut left = bytes;
    let mut peak = 0;
    while left > 0 {
        let chunk = &mut buffer[..left.min(BUFFER as u64) as usize];
        noise.fill(chunk);
        digest.update(chunk);
        stdin
            .write_all(chunk)
            .with_context(|| format!("writing: {}", process.complaint()))?;
        left -= chunk.len() as u64;
        peak = process.peak().unwrap_or(peak);
    }
    drop(stdin);
    let mut there = String::new();
    stdout.read_to_string(&mut there)?;
    finish(process)?;
    Ok((hex(digest), there, peak))
}

fn download(process: &mut Process, bytes: u64) -> anyhow::Result<(String, String, u64)> {
    drop(process.stdin()?);
    let mut stdout = process.stdout()?;
    let mut digest = Digest::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    let mut length = 0;
    let mut peak = 0;
    loop {
        let read = stdout.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        length += read as u64;
        peak = process.peak().unwrap_or(peak);
    }
    finish(process)?;
    anyhow::ensure!(length == bytes, "{length} of {bytes} bytes came");
    // stderr ends with the process, and is read by a thread
    let begun = Instant::now();
    while process.complaint().is_empty() && begun.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((hex(digest), process.complaint(), peak))
}

fn finish(process: &mut Process) -> anyhow::Result<()> {
    let ended = process.end(DEADLINE)?;
    anyhow::ensure!(ended.success(), "{ended}: {}", process.complaint());
    Ok(())
}

fn hex(digest: Digest) -> String {
    let digest = digest.finish();
    digest
        .as_ref()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect()
}

/// Bytes without a pattern, faster than any client (xorshift64).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_ne_bytes()[..word.len()]);
        }
    }
}
