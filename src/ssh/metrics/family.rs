//! Counters, gauges and histograms with labels, written in Prometheus' text format.
//!
//! By hand rather than by a crate: the format is four kinds of lines, and here its labels are known beforehand.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What stands for a label. Never a word of a client's: those are without number.
pub(super) type Label = Cow<'static, str>;

/// Series of one family at most. Configured clusters times backends are far from it; past it, changes are dropped.
const MAX_SERIES: usize = 10_000;

/// Numbers that belong together: one for each combination of labels that has occurred.
#[derive(Debug)]
pub(super) struct Family<T, const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    series: Mutex<BTreeMap<[Label; N], Arc<T>>>,
}

/// What a family is of.
pub(super) trait Metric: Default {
    /// Its Prometheus type.
    const TYPE: &'static str;

    /// Adds its lines; `labels` is `a="b",c="d"` or empty.
    fn write(&self, name: &str, labels: &str, to: &mut String);
}

impl<T: Metric, const N: usize> Family<T, N> {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Self {
        Self {
            name,
            help,
            labels,
            series: Mutex::new(BTreeMap::new()),
        }
    }

    /// The number of these labels; to be kept where it changes often.
    pub(super) fn with(&self, labels: [Label; N]) -> Arc<T> {
        let mut series = self.series();
        if series.len() >= MAX_SERIES && !series.contains_key(&labels) {
            return Arc::default();
        }
        series.entry(labels).or_default().clone()
    }

    pub(super) fn write(&self, to: &mut String) {
        head(self.name, T::TYPE, self.help, to);
        for (values, metric) in self.series().iter() {
            let mut labels = String::new();
            for (name, value) in self.labels.iter().zip(values) {
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = write!(labels, "{comma}{name}=\"{}\"", escaped(value));
            }
            metric.write(self.name, &labels, to);
        }
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<[Label; N], Arc<T>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `# HELP` and `# TYPE`.
pub(super) fn head(name: &str, kind: &str, help: &str, to: &mut String) {
    let _ = writeln!(to, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One line.
pub(super) fn sample(name: &str, labels: &str, value: impl std::fmt::Display, to: &mut String) {
    let _ = match labels.is_empty() {
        true => writeln!(to, "{name} {value}"),
        false => writeln!(to, "{name}{{{labels}}} {value}"),
    };
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metric for Counter {
    const TYPE: &'static str = "counter";

    fn write(&self, name: &str, labels: &str, to: &mut String) {
        sample(name, labels, self.get(), to);
    }
}

/// How many there are.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Metric for Gauge {
    const TYPE: &'static str = "gauge";

    fn write(&self, name: &str, labels: &str, to: &mut String) {
        sample(name, labels, self.0.load(Ordering::Relaxed), to);
    }
}

/// One more of a gauge, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct InUse(Arc<Gauge>);

impl InUse {
    pub(super) fn new(gauge: Arc<Gauge>) -> Self {
        gauge.0.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper bounds in seconds: from a key's check to a day's session, so that one set does for all.
const BOUNDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0, 1800.0, 7200.0,
    25200.0,
];

/// How long things took.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; those past the last bound are only in `count`.
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        if let Some(bucket) = bucket.and_then(|bucket| self.buckets.get(bucket)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Metric for Histogram {
    const TYPE: &'static str = "histogram";

    fn write(&self, name: &str, labels: &str, to: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(&self.buckets) {
            below += count.load(Ordering::Relaxed);
            sample(
                &bucket,
                &format!("{labels}{comma}le=\"{bound}\""),
                below,
                to,
            );
        }
        // An observation may be under way between its bucket and the count.
        let count = self.count.load(Ordering::Relaxed).max(below);
        sample(&bucket, &format!("{labels}{comma}le=\"+Inf\""), count, to);
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        sample(&format!("{name}_sum"), labels, sum, to);
        sample(&format!("{name}_count"), labels, count, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Metric, const N: usize>(family: &Family<T, N>) -> String {
        let mut text = String::new();
        family.write(&mut text);
        text
    }

    #[test]
    fn counters() {
        let family = Family::<Counter, 2>::new("a_total", "Of a.", ["x", "y"]);
        family.with(["1".into(), "\"\\\n".into()]).add(3);
        family.with(["0".into(), "b".into()]).add(1);
        family.with(["0".into(), "b".into()]).add(1);
        assert_eq!(
            text(&family),
            concat!(
                "# HELP a_total Of a.\n# TYPE a_total counter\n",
                "a_total{x=\"0\",y=\"b\"} 2\na_total{x=\"1\",y=\"\\\"\\\\\\n\"} 3\n"
            )
        );
    }

    #[test]
    fn gauges_go_down_again() {
        let family = Family::<Gauge, 0>::new("b", "Of b.", []);
        let one = InUse::new(family.with([]));
        let two = InUse::new(family.with([]));
        assert!(text(&family).ends_with("\nb 2\n"));
        drop(one);
        assert!(text(&family).ends_with("\nb 1\n"));
        drop(two);
    }

    #[test]
    fn histograms_are_cumulative() {
        let family = Family::<Histogram, 1>::new("c_seconds", "Of c.", ["x"]);
        let histogram = family.with(["1".into()]);
        for millis in [1, 5, 600, 2_000, 100_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let text = text(&family);
        for line in [
            "c_seconds_bucket{x=\"1\",le=\"0.005\"} 2\n",
            "c_seconds_bucket{x=\"1\",le=\"0.5\"} 2\n",
            "c_seconds_bucket{x=\"1\",le=\"1\"} 3\n",
            "c_seconds_bucket{x=\"1\",le=\"25200\"} 4\n",
            "c_seconds_bucket{x=\"1\",le=\"+Inf\"} 5\n",
            "c_seconds_sum{x=\"1\"} 100002.606\n",
            "c_seconds_count{x=\"1\"} 5\n",
        ] {
            assert!(text.contains(line), "{line} {text}");
        }
    }

    #[test]
    fn series_are_bounded() {
        let family = Family::<Counter, 1>::new("d", "Of d.", ["x"]);
        for number in 0..MAX_SERIES + 100 {
            family.with([number.to_string().into()]).add(1);
        }
        assert_eq!(text(&family).lines().count(), MAX_SERIES + 2);
    }
}
