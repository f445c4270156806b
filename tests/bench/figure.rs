//! What is measured, and what it should be.

use std::fmt;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Download,
    Downloads,
    Upload,
    Uploads,
    DownloadCpu,
    DownloadsCpu,
    UploadCpu,
    UploadsCpu,
    RoundTripMedian,
    RoundTripSlow,
    BusyRoundTripMedian,
    BusyRoundTripSlow,
    StalledRoundTripMedian,
    StalledRoundTripSlow,
    ConnectionsPerSecond,
    BurstTime,
    BurstLost,
    Successor,
    Ready,
    FirstByte,
    FirstByteCpu,
    OneShot,
    OneShotCpu,
    IdleMemory,
    OpenMemory,
    DownloadsMemory,
    UploadsMemory,
    Exec,
    ExecCpu,
    ExecFirstByte,
    StdinCpu,
    StdoutCpu,
    StdinMemory,
    StdoutMemory,
    BinarySize,
}

/// What kpf has to reach: so much of kubectl's figure, and so much whatever kubectl's is. Bounds are inclusive, and
/// lower or upper ones as the figure is better when high or low.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Target {
    pub(crate) ratio: Option<f64>,
    pub(crate) value: Option<f64>,
}

impl Figure {
    /// What it is, with the unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Download => "download, 1 stream, MB/s",
            Self::Downloads => "download, 8 streams, MB/s",
            Self::Upload => "upload, 1 stream, MB/s in the pod",
            Self::Uploads => "upload, 8 streams, MB/s in the pod",
            Self::DownloadCpu => "client CPU, download, 1 stream, s/GB",
            Self::DownloadsCpu => "client CPU, download, 8 streams, s/GB",
            Self::UploadCpu => "client CPU, upload, 1 stream, s/GB",
            Self::UploadsCpu => "client CPU, upload, 8 streams, s/GB",
            Self::RoundTripMedian => "round trip of 16 bytes, p50, µs",
            Self::RoundTripSlow => "round trip of 16 bytes, p99, µs",
            Self::BusyRoundTripMedian => "round trip beside 8 downloads, p50, ms",
            Self::BusyRoundTripSlow => "round trip beside 8 downloads, p99, ms",
            Self::StalledRoundTripMedian => "round trip beside a stalled download, p50, µs",
            Self::StalledRoundTripSlow => "round trip beside a stalled download, p99, µs",
            Self::ConnectionsPerSecond => "new connections per second",
            Self::BurstTime => "burst of 500 connections, ms to the last answer",
            Self::BurstLost => "burst of 500 connections, not answered",
            Self::Successor => "killed pod to first byte through its successor, ms",
            Self::Ready => "start to `Forwarding from`, ms",
            Self::FirstByte => "start to first byte, ms",
            Self::FirstByteCpu => "start to first byte, CPU ms",
            Self::OneShot => "one byte by one command, ms",
            Self::OneShotCpu => "one byte by one command, CPU ms",
            Self::IdleMemory => "memory, idle, MB",
            Self::OpenMemory => "memory, 200 connections, MB",
            Self::DownloadsMemory => "memory, 8 downloads, MB",
            Self::UploadsMemory => "memory, 8 uploads, MB",
            Self::Exec => "`exec -- true`, ms",
            Self::ExecCpu => "`exec -- true`, CPU ms",
            Self::ExecFirstByte => "`exec -- echo x`, ms to the first byte",
            Self::StdinCpu => "client CPU, stdin of exec, s/GB",
            Self::StdoutCpu => "client CPU, stdout of exec, s/GB",
            Self::StdinMemory => "peak memory, stdin of exec, MB",
            Self::StdoutMemory => "peak memory, stdout of exec, MB",
            Self::BinarySize => "size of the program, MB",
        }
    }

    pub(crate) fn better_high(self) -> bool {
        matches!(
            self,
            Self::Download
                | Self::Downloads
                | Self::Upload
                | Self::Uploads
                | Self::ConnectionsPerSecond
        )
    }

    pub(crate) fn target(self) -> Target {
        let (ratio, value) = match self {
            Self::Download | Self::Downloads | Self::Upload | Self::Uploads => (Some(3.0), None),
            Self::DownloadCpu | Self::DownloadsCpu | Self::UploadCpu | Self::UploadsCpu => {
                (Some(1.0 / 4.0), Some(0.7))
            }
            Self::RoundTripMedian | Self::RoundTripSlow => (Some(0.6), None),
            Self::BusyRoundTripSlow => (Some(1.0 / 4.0), None),
            Self::ConnectionsPerSecond => (Some(1.5), None),
            Self::BurstTime => (Some(1.0), None),
            Self::BurstLost => (None, Some(0.0)),
            Self::FirstByte | Self::OneShot => (Some(1.0 / 6.0), None),
            Self::OneShotCpu => (None, Some(10.0)),
            Self::IdleMemory => (Some(1.0 / 8.0), None),
            Self::OpenMemory => (Some(1.0 / 3.0), None),
            Self::BusyRoundTripMedian
            | Self::StalledRoundTripMedian
            | Self::StalledRoundTripSlow
            | Self::Successor
            | Self::Ready
            | Self::FirstByteCpu
            | Self::DownloadsMemory
            | Self::UploadsMemory
            | Self::Exec
            | Self::ExecCpu
            | Self::ExecFirstByte
            | Self::StdinCpu
            | Self::StdoutCpu
            | Self::StdinMemory
            | Self::StdoutMemory
            | Self::BinarySize => (None, None),
        };
        Target { ratio, value }
    }

    /// The better of two values.
    pub(crate) fn better(self, one: f64, other: f64) -> f64 {
        match self.better_high() {
            true => one.max(other),
            false => one.min(other),
        }
    }

    /// Whether kpf's value, and its ratio to kubectl's if that is known, reach the target; `None` if there is none
    /// to reach, or none that can be judged.
    pub(crate) fn reached(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        let target = self.target();
        let reaches = |(figure, bound)| match self.better_high() {
            true => figure >= bound,
            false => figure <= bound,
        };
        let by_ratio = ratio.zip(target.ratio).map(reaches);
        let by_value = target.value.map(|bound| reaches((value, bound)));
        match (by_ratio, by_value) {
            (Some(ratio), Some(value)) => Some(ratio && value),
            (ratio, value) => ratio.or(value),
        }
    }
}

impl fmt::Display for Figure {
    /// A word for programs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, c) in format!("{self:?}").char_indices() {
            if c.is_ascii_uppercase() && index > 0 {
                f.write_str("_")?;
            }
            write!(f, "{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}
