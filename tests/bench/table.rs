//! All samples, as a table for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::clients::{Client, Transport};
use crate::figure::Figure;
use crate::load::Samples;

/// Samples by figure and client.
pub(crate) struct Table<'a> {
    clients: &'a [Client],
    rows: BTreeMap<Figure, Vec<Vec<f64>>>,
    failures: Vec<(usize, String)>,
}

impl<'a> Table<'a> {
    /// An empty table, but for what is known of the clients without running them.
    pub(crate) fn new(clients: &'a [Client]) -> Self {
        let mut table = Self {
            clients,
            rows: BTreeMap::new(),
            failures: Vec::new(),
        };
        for (column, client) in clients.iter().enumerate() {
            let file = client.program().and_then(|file| file.metadata().ok());
            let size = file.map(|file| (Figure::BinarySize, file.len() as f64 / 1e6));
            table.add(column, Samples(size.into_iter().collect()));
        }
        table
    }

    pub(crate) fn add(&mut self, column: usize, samples: Samples) {
        for (figure, value) in samples.0 {
            let row = self.rows.entry(figure);
            let row = row.or_insert_with(|| vec![Vec::new(); self.clients.len()]);
            row[column].push(value);
        }
    }

    pub(crate) fn fail(&mut self, column: usize, why: String) {
        if !self.failures.contains(&(column, why.clone())) {
            self.failures.push((column, why));
        }
    }

    pub(crate) fn kpf_failed(&self) -> bool {
        let is_kpf = |column: usize| matches!(self.clients[column], Client::Kpf(_));
        self.failures.iter().any(|(column, _)| is_kpf(*column))
    }

    /// Medians, ranges, ratios and targets.
    pub(crate) fn markdown(&self, rounds: u32) -> String {
        let mut text = format!("Medians (lowest to highest) of {rounds} rounds; kpf/kubectl");
        text += " compares kpf's default transport with kubectl's better one";
        let version = self.clients.iter().find_map(Client::kubectl_version);
        if let Some(version) = version {
            let _ = write!(text, ", {version}");
        }
        text += ".\n\n";
        if cfg!(debug_assertions) {
            text += "Built without optimisation: these figures say nothing.\n\n";
        }
        text += "| |";
        for client in self.clients {
            let _ = write!(text, " {client} |");
        }
        text += " kpf/kubectl | target | reached |\n|---|";
        text += &"---:|".repeat(self.clients.len() + 1);
        text += "---|---|\n";
        for (figure, row) in &self.rows {
            let _ = write!(text, "| {} |", figure.title());
            for samples in row {
                let _ = write!(text, " {} |", cell(samples));
            }
            let ratio = self.ratio(*figure).map(|ratio| format!("{ratio:.2}"));
            let reached = match self.reached(*figure) {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "",
            };
            let ratio = ratio.unwrap_or_default();
            let _ = writeln!(text, " {ratio} | {} | {reached} |", target(*figure));
        }
        if !self.failures.is_empty() {
            text += "\nFailed:\n\n";
        }
        for (column, why) in &self.failures {
            let _ = writeln!(text, "- {}: {why}", self.clients[*column]);
        }
        text
    }

    /// Everything that was measured.
    pub(crate) fn json(&self, rounds: u32) -> Value {
        let figures = self.rows.iter().map(|(figure, row)| {
            let columns = self.clients.iter().zip(row);
            let columns = columns.filter(|(_, samples)| !samples.is_empty());
            let samples: BTreeMap<String, &Vec<f64>> = columns
                .map(|(client, samples)| (client.to_string(), samples))
                .collect();
            json!({
                "figure": figure.to_string(),
                "title": figure.title(),
                "better": if figure.better_high() { "high" } else { "low" },
                "samples": samples,
                "ratio": self.ratio(*figure),
                "target": { "ratio": figure.target().ratio, "value": figure.target().value },
                "reached": self.reached(*figure),
            })
        });
        let failures = self.failures.iter();
        let failures = failures.map(
            |(column, why)| json!({"client": self.clients[*column].to_string(), "failure": why}),
        );
        json!({
            "rounds": rounds,
            "optimised": !cfg!(debug_assertions),
            "figures": figures.collect::<Vec<_>>(),
            "failures": failures.collect::<Vec<_>>(),
        })
    }

    /// kpf's median, as kpf runs by default.
    fn ours(&self, figure: Figure) -> Option<f64> {
        let ours = Client::Kpf(Transport::WebSocket);
        let column = self.clients.iter().position(|client| *client == ours)?;
        median(&self.rows.get(&figure)?[column])
    }

    /// kpf's median to the better of kubectl's.
    fn ratio(&self, figure: Figure) -> Option<f64> {
        let columns = self.clients.iter().zip(self.rows.get(&figure)?);
        let kubectl = columns
            .filter(|(client, _)| matches!(client, Client::Kubectl(..)))
            .filter_map(|(_, samples)| median(samples))
            .reduce(|one, other| figure.better(one, other))?;
        let ratio = self.ours(figure)? / kubectl;
        ratio.is_finite().then_some(ratio)
    }

    fn reached(&self, figure: Figure) -> Option<bool> {
        figure.reached(self.ours(figure)?, self.ratio(figure))
    }
}

/// `212 (198–230)`
fn cell(samples: &[f64]) -> String {
    let Some(median) = median(samples) else {
        return "–".to_owned();
    };
    let lowest = number(samples.iter().copied().fold(f64::INFINITY, f64::min));
    let highest = number(samples.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    match lowest == highest {
        true => number(median),
        false => format!("{} ({lowest}–{highest})", number(median)),
    }
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn target(figure: Figure) -> String {
    let bound = if figure.better_high() { "≥" } else { "≤" };
    let target = figure.target();
    let ratio = target.ratio.map(|ratio| format!("{bound} {ratio:.2} ×"));
    let value = target.value.map(|value| format!("{bound} {value}"));
    let bounds: Vec<String> = ratio.into_iter().chain(value).collect();
    bounds.join(" and ")
}

/// The middle one, or the mean of the two in the middle.
fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2.0)
}
