//! Turns: the sides of a row are measured one after the other, round after round, so that what the
//! machine does meanwhile happens to all of them.

use std::time::Duration;

use crate::{
    compare::{Bench, finding::Spread, others::Watch, programs::Kind, server::Server},
    fill,
    load::{Load, Outcome},
    plan::Plan,
    report::grouped,
    work::{Mix, Work},
};

/// A server and what is asked of it.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    name: String,
    server: &'a Server,
    pub(crate) work: Work,
    plan: Plan,
}

impl<'a> Side<'a> {
    pub(crate) fn new(server: &'a Server, mix: &Mix, plan: &Plan) -> Side<'a> {
        let work = match server.kind {
            Kind::Keywire { .. }
            | Kind::Disk { .. }
            | Kind::Cluster { .. }
            | Kind::Tokio
            | Kind::AsyncStd => Work::keywire(mix),
            Kind::Redis | Kind::RedisLog { .. } | Kind::Kevy => Work::redis(mix),
        };
        Side {
            name: server.kind.name().into(),
            server,
            work,
            plan: plan.clone(),
        }
    }

    pub(crate) fn named(self, name: impl Into<String>) -> Side<'a> {
        Side {
            name: name.into(),
            ..self
        }
    }

    /// Loads the keys, which are the same in every turn.
    pub(crate) fn fill(&self) -> Result<(), String> {
        fill::fill(&self.server.target, &self.work).map_err(|error| self.blame(&error))
    }

    /// Connects the clients, lets them work, and lets them go.
    pub(crate) fn turn(&self) -> Result<Turn, String> {
        let turn = self.measure();
        self.server.settle();
        turn
    }

    /// The same where the server will not come to rest, because others load it too.
    pub(crate) fn measure(&self) -> Result<Turn, String> {
        let mut load = Load::connect(&self.server.target, &self.plan, &self.work)
            .map_err(|error| self.blame(&error.to_string()))?;
        let watch = Watch::start(&self.server.process);
        let outcome = load.run(Some(&self.server.process));
        let others = watch.others();
        match outcome.first_error {
            Some(error) => Err(self.blame(&error)),
            None if outcome.operations == 0 => Err(self.blame("nothing was answered in time")),
            None => Ok(Turn::new(outcome, others)),
        }
    }

    /// How long a turn works, measured or not.
    pub(crate) fn seconds_with_warmup(&self) -> f64 {
        (self.plan.warmup + self.plan.seconds).as_secs_f64()
    }

    fn blame(&self, error: &str) -> String {
        format!("{}: {error}", self.name)
    }
}

/// What one side did in one round.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Operations a second.
    pub(crate) rate: f64,
    /// CPU time of the server for an operation, in microseconds.
    pub(crate) cpu: f64,
    /// The parts of a core that the server had, and the load.
    busy: f64,
    load: f64,
    /// The part of a core that other programs had, where that can be told.
    others: Option<f64>,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
    /// The same of the writers.
    pub(crate) write_rate: f64,
    pub(crate) write_p999: Duration,
    /// Batches each client had answered.
    pub(crate) turns: Vec<u64>,
}

impl Turn {
    pub(crate) fn new(outcome: Outcome, others: Option<f64>) -> Turn {
        let elapsed = outcome.elapsed.as_secs_f64().max(1e-9);
        let operations = outcome.operations as f64;
        let used = |cpu: Option<Duration>| cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64());
        let (cpu, load) = (used(outcome.server_cpu), used(outcome.load_cpu));
        let written = outcome.written as f64;
        let quantile = |q| Duration::from_nanos(outcome.latency.value_at_quantile(q));
        Turn {
            rate: operations / elapsed,
            cpu: cpu * 1e6 / (operations + written),
            busy: cpu / elapsed,
            load: load / elapsed,
            others,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            write_rate: written / elapsed,
            write_p999: Duration::from_nanos(outcome.write_latency.value_at_quantile(0.999)),
            turns: outcome.turns,
        }
    }

    /// Whether other programs had a good part of the cores.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.others.is_some_and(|part| part > 0.1)
    }
}

/// The turns of all sides, round by round. There is at least one round.
#[derive(Debug)]
pub(crate) struct Rounds {
    names: Vec<String>,
    rounds: Vec<Vec<Turn>>,
}

impl Rounds {
    /// Loads the keys of all sides, then lets them take turns.
    pub(crate) fn play(bench: &Bench, sides: &[Side<'_>]) -> Result<Rounds, String> {
        sides.iter().try_for_each(Side::fill)?;
        let disturbed = |turns: &Vec<Turn>| turns.iter().any(Turn::is_disturbed);
        let round = || sides.iter().map(Side::turn).collect();
        let rounds = bench.rounds_but(disturbed, round)?;
        Ok(Rounds {
            names: sides.iter().map(|side| side.name.clone()).collect(),
            rounds,
        })
    }

    pub(crate) fn spread(&self, figure: impl Fn(&[Turn]) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|turns| figure(turns)))
    }

    /// Operations a second of one side, for each of another.
    pub(crate) fn ratio(&self, side: usize, to: usize) -> Spread {
        self.spread(|turns| turns[side].rate / turns[to].rate)
    }

    /// The same by the server's CPU time, in words. It tells what a server costs where other
    /// programs or the load set the pace.
    pub(crate) fn cpu_ratio(&self, side: usize, to: usize) -> String {
        let ratio = self.spread(|turns| turns[to].cpu / turns[side].cpu);
        let Spread {
            median, min, max, ..
        } = ratio;
        format!("operations for the same server CPU: ratio {median:.2} ({min:.2} to {max:.2})")
    }

    /// What each side did, in words.
    pub(crate) fn sides(&self) -> Vec<String> {
        let width = self.names.iter().map(String::len).max().unwrap_or(0);
        let sides = self.names.iter().enumerate();
        let figures = sides.map(|(side, name)| {
            let median =
                |figure: fn(&Turn) -> f64| self.spread(|turns| figure(&turns[side])).median;
            let rate = grouped(median(|turn| turn.rate) as u64);
            let cpu = median(|turn| turn.cpu);
            let busy = median(|turn| turn.busy * 100.0);
            let load = median(|turn| turn.load * 100.0);
            format!(
                "{name:<width$} {rate:>10} op/s, {cpu:5.2} µs server CPU each; \
                 server {busy:.0} %, load {load:.0} % of a core"
            )
        });
        figures.collect()
    }

    /// A reason to trust the figures less, if there is one.
    pub(crate) fn doubt(&self) -> Option<String> {
        let disturbed = |turns: &&Vec<Turn>| turns.iter().any(Turn::is_disturbed);
        let count = self.rounds.iter().filter(disturbed).count();
        let others = self.rounds.iter().flatten().filter_map(|turn| turn.others);
        let part = Spread::of(others).max * 100.0;
        (count > 0).then(|| {
            format!("other programs disturbed {count} rounds, and had up to {part:.0} % of a core")
        })
    }

    /// All that can be said.
    pub(crate) fn figures(&self) -> Vec<String> {
        let mut figures = self.sides();
        figures.extend(self.doubt());
        figures
    }
}
