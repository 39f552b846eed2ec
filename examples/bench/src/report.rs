//! What a run prints.

use std::{fmt, time::Duration};

use crate::{connect::Target, cpu::Process, load::Outcome, plan::Plan, work::Mix};

#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) name: &'a str,
    pub(crate) target: &'a Target,
    pub(crate) plan: &'a Plan,
    pub(crate) mix: &'a Mix,
    /// How long it took to load the keys, and to connect the clients.
    pub(crate) filled: Duration,
    pub(crate) connected: Duration,
    pub(crate) server: Option<&'a Process>,
    pub(crate) outcome: &'a Outcome,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            plan, mix, outcome, ..
        } = self;
        writeln!(
            f,
            "{} at {}: {} clients, {} deep, {} % writes, {} keys of {} x {} bytes",
            self.name,
            self.target,
            grouped(plan.clients.into()),
            grouped(plan.depth.into()),
            mix.writes,
            grouped(mix.keys.into()),
            mix.list,
            mix.value_size,
        )?;
        if let Some(rate) = plan.rate {
            let rate = grouped(rate.into());
            writeln!(
                f,
                "{rate} operations a second are due; latency counts from then"
            )?;
        }
        writeln!(
            f,
            "keys loaded in {:.2} s, clients connected in {:.2} s, measured for {:.2} s\n",
            self.filled.as_secs_f64(),
            self.connected.as_secs_f64(),
            outcome.elapsed.as_secs_f64(),
        )?;

        if outcome.operations > 0 {
            self.figures(f)?;
        } else {
            line(f, "operations", 0, "")?;
        }
        if plan.never_read > 0 {
            let rest = format!("of {} still connected", grouped(plan.never_read.into()));
            line(f, "never reading", grouped(outcome.unread as u64), &rest)?;
        }
        line(f, "errors", grouped(outcome.errors), "")?;
        match &outcome.first_error {
            Some(error) => writeln!(f, "the first error: {error}"),
            None => Ok(()),
        }
    }
}

impl Report<'_> {
    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome;
        let elapsed = outcome.elapsed.as_secs_f64().max(1e-9);
        let rate = outcome.operations as f64 / elapsed;
        line(f, "operations", grouped(rate as u64), "a second")?;
        for (label, quantile) in [
            ("latency, p50", 0.5),
            ("p90", 0.9),
            ("p99", 0.99),
            ("p99.9", 0.999),
            ("max", 1.0),
        ] {
            let time = outcome.latency.value_at_quantile(quantile);
            line(f, label, grouped((time + 500) / 1000), "µs")?;
        }
        if self.plan.writers > 0 {
            let rate = outcome.written as f64 / elapsed;
            let rest = format!("a second by {} writers", grouped(self.plan.writers.into()));
            line(f, "writes", grouped(rate as u64), &rest)?;
            let time = outcome.write_latency.value_at_quantile(0.99);
            line(f, "p99", grouped((time + 500) / 1000), "µs")?;
        }
        let percent = |used: Duration| format!("{:.0}", used.as_secs_f64() / elapsed * 100.0);
        if let (Some(process), Some(used)) = (self.server, outcome.server_cpu) {
            let each = used.as_secs_f64() * 1e6 / (outcome.operations + outcome.written) as f64;
            line(f, "server CPU", format!("{each:.2}"), "µs an operation")?;
            let rest = format!("% of a core, process {}", process.id);
            line(f, "", percent(used), &rest)?;
        } else {
            let reason = "(on another machine or system, another user's, or ended)";
            line(f, "server CPU", "unknown", reason)?;
        }
        if let Some(used) = outcome.load_cpu {
            line(f, "load CPU", percent(used), "% of a core")?;
        }
        Ok(())
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    value: impl fmt::Display,
    rest: &str,
) -> fmt::Result {
    let line = format!("{label:>16} {value:>12} {rest}");
    writeln!(f, "{}", line.trim_end())
}

/// A number in groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
