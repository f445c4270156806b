//! What is done with a client, and what is measured while it is done.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::clients::{Client, Forward, connect_once};
use crate::exec;
use crate::figure::Figure;
use crate::flow::{Direction, Flow};
use crate::ground::Ground;
use crate::playground::ports::{CHARGEN, ECHO};
use crate::process::{DEADLINE, cpu_of_ended_children};

/// Round trips before the first that counts.
const WARM_UP: usize = 20;
/// Who has not answered for so long hangs.
const HANGS: Duration = Duration::from_secs(5);
/// Streams where there are several.
const MANY: usize = 8;
pub(crate) const MB: f64 = 1e6;
pub(crate) const GB: f64 = 1e9;

/// How much of everything.
pub(crate) struct Size {
    /// How long throughput is measured.
    window: Duration,
    round_trips: usize,
    /// One after another.
    connections: usize,
    /// At once.
    burst: usize,
    /// Held open while memory is measured.
    open: usize,
    /// Starts of the program.
    starts: u32,
    /// Through one command.
    pub(crate) bytes: u64,
}

impl Size {
    pub(crate) const FULL: Self = Self {
        window: Duration::from_secs(2),
        round_trips: 2000,
        connections: 300,
        burst: 500,
        open: 200,
        starts: 10,
        bytes: 1_000_000_000,
    };

    pub(crate) const QUICK: Self = Self {
        window: Duration::from_millis(200),
        round_trips: 200,
        connections: 20,
        burst: 50,
        open: 20,
        starts: 2,
        bytes: 4_000_000,
    };
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { burst, open, .. } = self;
        write!(
            f,
            "{:?} of throughput, {burst} connections at once, {open} held open",
            self.window
        )
    }
}

/// What a load yields.
#[derive(Default)]
pub(crate) struct Samples(pub(crate) Vec<(Figure, f64)>);

impl Samples {
    pub(crate) fn add(&mut self, figure: Figure, value: f64) {
        self.0.push((figure, value));
    }

    fn add_if(&mut self, figure: Figure, value: Option<f64>) {
        self.0.extend(value.map(|value| (figure, value)));
    }
}

/// One thing that is done with every client in turn, each time with a fresh process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    Starts,
    RoundTrips,
    Connections,
    Burst,
    OpenConnections,
    Bulk(Direction, usize),
    BusyRoundTrips,
    StalledRoundTrips,
    Kill,
    Execs,
    Exec(Direction),
}

impl Load {
    pub(crate) const ALL: [Self; 15] = [
        Self::Starts,
        Self::RoundTrips,
        Self::Connections,
        Self::Burst,
        Self::OpenConnections,
        Self::Bulk(Direction::Down, 1),
        Self::Bulk(Direction::Down, MANY),
        Self::Bulk(Direction::Up, 1),
        Self::Bulk(Direction::Up, MANY),
        Self::BusyRoundTrips,
        Self::StalledRoundTrips,
        Self::Kill,
        Self::Execs,
        Self::Exec(Direction::Up),
        Self::Exec(Direction::Down),
    ];

    pub(crate) fn run(
        self,
        client: &Client,
        ground: &Ground,
        size: &Size,
    ) -> anyhow::Result<Samples> {
        match self {
            Self::Starts => return starts(client, ground, size.starts),
            Self::Execs => return exec::starts(client, ground, size.starts),
            Self::Exec(direction) => return exec::bulk(client, ground, direction, size.bytes),
            Self::Kill => return kill(client, ground),
            _ => {}
        }
        let forward = Forward::start(client, ground)?;
        let measured = match self {
            Self::Starts | Self::Execs | Self::Exec(_) | Self::Kill => {
                unreachable!("need no forward")
            }
            Self::RoundTrips => idle_round_trips(&forward, size.round_trips),
            Self::Connections => connections(&forward, size.connections),
            Self::Burst => burst(&forward, size.burst),
            Self::OpenConnections => open_connections(&forward, size.open),
            Self::Bulk(direction, streams) => {
                bulk(&forward, ground, direction, streams, size.window)
            }
            Self::BusyRoundTrips => busy_round_trips(&forward, size.window),
            Self::StalledRoundTrips => stalled_round_trips(&forward, size),
        };
        let complaint = forward.process().map(|process| process.complaint());
        measured.with_context(|| format!("{client} said {:?}", complaint.unwrap_or_default()))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starts => f.write_str("starts"),
            Self::RoundTrips => f.write_str("round-trips"),
            Self::Connections => f.write_str("connections"),
            Self::Burst => f.write_str("burst"),
            Self::OpenConnections => f.write_str("open-connections"),
            Self::Bulk(Direction::Down, streams) => write!(f, "download-{streams}"),
            Self::Bulk(Direction::Up, streams) => write!(f, "upload-{streams}"),
            Self::BusyRoundTrips => f.write_str("busy-round-trips"),
            Self::StalledRoundTrips => f.write_str("stalled-round-trips"),
            Self::Kill => f.write_str("kill"),
            Self::Execs => f.write_str("exec-starts"),
            Self::Exec(Direction::Up) => f.write_str("exec-stdin"),
            Self::Exec(Direction::Down) => f.write_str("exec-stdout"),
        }
    }
}

/// From nothing to the first byte. The whole of a process' CPU is known when it has ended, and in steps of 10 ms, so
/// it is the mean of several.
fn starts(client: &Client, ground: &Ground, count: u32) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    if client.program().is_none() {
        return Ok(samples);
    }
    let cpu_each = |before: Duration| -> anyhow::Result<f64> {
        Ok(milliseconds(cpu_of_ended_children()? - before) / f64::from(count))
    };
    let before = cpu_of_ended_children()?;
    for _ in 0..count {
        let begun = Instant::now();
        let forward = Forward::start(client, ground)?;
        round_trip(&mut forward.connect(ECHO)?, &mut [0])?;
        let first_byte = milliseconds(begun.elapsed());
        samples.add(Figure::Ready, milliseconds(forward.ready_after));
        samples.add(Figure::FirstByte, first_byte);
        if let Client::Kubectl(..) = client {
            // it has no other way to reach a port once
            samples.add(Figure::OneShot, first_byte);
        }
    }
    let cpu = cpu_each(before)?;
    samples.add(Figure::FirstByteCpu, cpu);
    if let Client::Kubectl(..) = client {
        samples.add(Figure::OneShotCpu, cpu);
        return Ok(samples);
    }
    let before = cpu_of_ended_children()?;
    for _ in 0..count {
        let once = connect_once(client, ground)?;
        samples.add_if(Figure::OneShot, once.map(milliseconds));
    }
    samples.add(Figure::OneShotCpu, cpu_each(before)?);
    Ok(samples)
}

fn idle_round_trips(forward: &Forward, count: usize) -> anyhow::Result<Samples> {
    let mut times = round_trips(&mut forward.connect(ECHO)?, count)?;
    let mut samples = Samples::default();
    samples.add(Figure::RoundTripMedian, percentile(&mut times, 0.5)?);
    samples.add(Figure::RoundTripSlow, percentile(&mut times, 0.99)?);
    Ok(samples)
}

/// So many round trips of 16 bytes, each in microseconds.
fn round_trips(tcp: &mut TcpStream, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for trip in 0..WARM_UP + count {
        let time = round_trip(tcp, &mut [0; 16])?;
        if trip >= WARM_UP {
            times.push(milliseconds(time) * 1000.0);
        }
    }
    Ok(times)
}

/// Beside a download that nobody reads, once all buffers on its way are full.
fn stalled_round_trips(forward: &Forward, size: &Size) -> anyhow::Result<Samples> {
    let unread = forward.connect(CHARGEN)?;
    std::thread::sleep(size.window);
    let mut tcp = forward.connect(ECHO)?;
    tcp.set_read_timeout(Some(HANGS))?;
    let times = round_trips(&mut tcp, size.round_trips);
    let mut times = times.with_context(|| format!("no answer for {HANGS:?}"))?;
    drop(unread);
    let mut samples = Samples::default();
    samples.add(Figure::StalledRoundTripMedian, percentile(&mut times, 0.5)?);
    samples.add(Figure::StalledRoundTripSlow, percentile(&mut times, 0.99)?);
    Ok(samples)
}

/// From the death of the pod to the first byte that comes through the one after it.
fn kill(client: &Client, ground: &Ground) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let Some(forward) = Forward::to_victim(client, ground)? else {
        return Ok(samples);
    };
    let mut open = forward.connect(ECHO)?;
    round_trip(&mut open, &mut [0])?;
    let killing = ground.kill()?;
    loop {
        let answered = forward
            .connect(ECHO)
            .and_then(|mut tcp| round_trip(&mut tcp, &mut [0]));
        match answered {
            Ok(_) => break,
            Err(error) if killing.dead.elapsed() > DEADLINE || forward.has_ended() => {
                return Err(error.context("it goes on with no other pod"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    samples.add(Figure::Successor, milliseconds(killing.dead.elapsed()));
    killing.finish()?;
    Ok(samples)
}

fn connections(forward: &Forward, count: usize) -> anyhow::Result<Samples> {
    let begun = Instant::now();
    for number in 0..count {
        let mut tcp = forward.connect(ECHO)?;
        round_trip(&mut tcp, &mut [0]).with_context(|| format!("connection {number}"))?;
    }
    let mut samples = Samples::default();
    let per_second = count as f64 / begun.elapsed().as_secs_f64();
    samples.add(Figure::ConnectionsPerSecond, per_second);
    Ok(samples)
}

/// All connect and write before the first reads, which the kernel's queue allows.
fn burst(forward: &Forward, count: usize) -> anyhow::Result<Samples> {
    let begun = Instant::now();
    let mut opened = Vec::with_capacity(count);
    for _ in 0..count {
        let mut tcp = forward.connect(ECHO)?;
        tcp.write_all(b"x")?;
        opened.push(tcp);
    }
    let answers = opened.iter_mut().map(|tcp| tcp.read_exact(&mut [0]));
    let answered = answers.filter(Result::is_ok).count();
    let mut samples = Samples::default();
    samples.add(Figure::BurstTime, milliseconds(begun.elapsed()));
    samples.add(Figure::BurstLost, (count - answered) as f64);
    Ok(samples)
}

fn open_connections(forward: &Forward, count: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let Some(process) = forward.process() else {
        return Ok(samples);
    };
    samples.add(Figure::IdleMemory, process.resident()? as f64 / MB);
    let mut opened = Vec::with_capacity(count);
    for _ in 0..count {
        let mut tcp = forward.connect(ECHO)?;
        round_trip(&mut tcp, &mut [0])?;
        opened.push(tcp);
    }
    samples.add(Figure::OpenMemory, process.resident()? as f64 / MB);
    Ok(samples)
}

fn bulk(
    forward: &Forward,
    ground: &Ground,
    direction: Direction,
    streams: usize,
    window: Duration,
) -> anyhow::Result<Samples> {
    let flow = Flow::start(forward, direction, streams)?;
    let carried = flow.measure(forward, ground, window)?;
    let bytes = carried.bytes as f64;
    let (rate, cost, memory) = match (direction, streams) {
        (Direction::Down, 1) => (Figure::Download, Figure::DownloadCpu, None),
        (Direction::Up, 1) => (Figure::Upload, Figure::UploadCpu, None),
        (Direction::Down, _) => (
            Figure::Downloads,
            Figure::DownloadsCpu,
            Some(Figure::DownloadsMemory),
        ),
        (Direction::Up, _) => (
            Figure::Uploads,
            Figure::UploadsCpu,
            Some(Figure::UploadsMemory),
        ),
    };
    let mut samples = Samples::default();
    samples.add(rate, bytes / MB / carried.time.as_secs_f64());
    let cpu = carried.cpu.map(|cpu| cpu.as_secs_f64() / (bytes / GB));
    samples.add_if(cost, cpu);
    if let Some(memory) = memory {
        samples.add_if(memory, carried.resident.map(|bytes| bytes as f64 / MB));
    }
    Ok(samples)
}

fn busy_round_trips(forward: &Forward, window: Duration) -> anyhow::Result<Samples> {
    let flow = Flow::start(forward, Direction::Down, MANY)?;
    let mut tcp = forward.connect(ECHO)?;
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < window * 2 {
        let time = round_trip(&mut tcp, &mut [0; 16]).context("an echo beside downloads")?;
        times.push(milliseconds(time));
    }
    flow.check()?;
    let mut samples = Samples::default();
    samples.add(Figure::BusyRoundTripMedian, percentile(&mut times, 0.5)?);
    samples.add(Figure::BusyRoundTripSlow, percentile(&mut times, 0.99)?);
    Ok(samples)
}

/// Sends bytes to the echo service and reads them again.
fn round_trip(tcp: &mut TcpStream, bytes: &mut [u8]) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    tcp.write_all(bytes).context("writing to the forward")?;
    tcp.read_exact(bytes).context("reading from the forward")?;
    Ok(begun.elapsed())
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The value that so much of all values don't exceed.
fn percentile(values: &mut [f64], share: f64) -> anyhow::Result<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    let value = values.get(rank.saturating_sub(1));
    value.copied().context("nothing was measured")
}
