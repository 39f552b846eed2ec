//! The rows: what is measured, and the goal for each.

mod connect;
mod delete;
mod fanout;
mod idle;
mod keys;
mod latency;
mod threads;

use std::{fmt, time::Duration};

use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Unit},
        server::Kind,
        turns::{Rounds, Side},
    },
    plan::Plan,
    report::grouped,
    work::Mix,
};

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) measure: fn(&Bench) -> Result<Vec<Finding>, String>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn row(name: &'static str, measure: fn(&Bench) -> Result<Vec<Finding>, String>) -> Row {
    Row { name, measure }
}

pub(crate) const ROWS: &[Row] = &[
    row("50x1", |bench| usual(bench, "50x1", 50, 1, 1.0)),
    row("50x16", |bench| usual(bench, "50x16", 50, 16, 1.6)),
    row("50x100", |bench| usual(bench, "50x100", 50, 100, 3.0)),
    row("1000x1", |bench| usual(bench, "1000x1", 1_000, 1, 1.0)),
    row("10000x1", |bench| usual(bench, "10000x1", 10_000, 1, 1.0)),
    row("never-read", never_read),
    row("4k", four_kib),
    row("list", list),
    row("keys", keys::measure),
    row("open", latency::measure),
    row("connect", connect::measure),
    row("threads", threads::measure),
    row("fair", threads::fairness),
    row("runtimes", runtimes),
    row("idle", idle::measure),
    row("delete", delete::measure),
    row("fan-out", fanout::measure),
];

fn usual(
    bench: &Bench,
    name: &str,
    clients: u32,
    depth: u32,
    goal: f64,
) -> Result<Vec<Finding>, String> {
    let what = format!("{} clients, {depth} deep", grouped(clients.into()));
    let plan = bench.plan(clients, depth);
    against_redis(bench, name, &what, &Mix::USUAL, &plan, goal)
}

fn four_kib(bench: &Bench) -> Result<Vec<Finding>, String> {
    let mix = Mix {
        value_size: 4096,
        ..Mix::USUAL
    };
    let what = "values of 4 KiB, 50 clients, 16 deep";
    against_redis(bench, "4k", what, &mix, &bench.plan(50, 16), 1.0)
}

fn list(bench: &Bench) -> Result<Vec<Finding>, String> {
    let mix = Mix {
        keys: 100,
        list: 1_000,
        ..Mix::USUAL
    };
    let what = "lists of 1,000 values, 50 clients, 1 deep";
    against_redis(bench, "list", what, &mix, &bench.plan(50, 1), 1.0)
}

fn against_redis(
    bench: &Bench,
    name: &str,
    what: &str,
    mix: &Mix,
    plan: &Plan,
    goal: f64,
) -> Result<Vec<Finding>, String> {
    let keywire = bench.start(Kind::KEYWIRE, plan.sockets())?;
    let redis = bench.start(Kind::Redis, plan.sockets())?;
    let sides = [&keywire, &redis].map(|server| Side::new(server, mix, plan));
    let rounds = Rounds::play(bench, &sides)?;
    let mut figures = rounds.figures();
    figures.push(rounds.cpu_ratio(0, 1));
    Ok(vec![Finding {
        name: name.into(),
        what: what.into(),
        unit: Unit::OfRedis,
        spread: rounds.ratio(0, 1),
        goal: Goal::AtLeast(goal),
        figures,
    }])
}

/// The server as a task of another executor, which may have as many threads as it likes, but only
/// the one core.
fn runtimes(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = bench.plan(50, 16);
    let keywire = bench.start(Kind::KEYWIRE, plan.sockets())?;
    let finding = |kind: Kind, name: &str| -> Result<Finding, String> {
        let other = bench.start(kind, plan.sockets())?;
        let sides = [&other, &keywire].map(|server| Side::new(server, &Mix::USUAL, &plan));
        let rounds = Rounds::play(bench, &sides)?;
        let mut figures = rounds.figures();
        figures.push(rounds.cpu_ratio(0, 1));
        Ok(Finding {
            name: name.into(),
            what: format!("50 clients, 16 deep: on {name} / on smol"),
            unit: Unit::OfOurs,
            spread: rounds.ratio(0, 1),
            goal: Goal::AtLeast(0.8),
            figures,
        })
    };
    Ok(vec![
        finding(Kind::Tokio, "tokio")?,
        finding(Kind::AsyncStd, "async-std")?,
    ])
}

/// What clients cost the others that ask for thousands of replies and leave them unread.
fn never_read(bench: &Bench) -> Result<Vec<Finding>, String> {
    let alone = bench.plan(50, 16);
    let alone = Plan {
        // The 200 are to have had their answers before the measured time.
        warmup: alone.warmup.max(Duration::from_secs(1)),
        ..alone
    };
    let plan = Plan {
        never_read: 200,
        // With a tenth of them writes, this asks for some 4,000 replies.
        unread: 4_450,
        ..alone.clone()
    };
    let keywire = bench.start(Kind::KEYWIRE, plan.sockets())?;
    let sides = [
        Side::new(&keywire, &Mix::USUAL, &plan).named("with 200 that never read"),
        Side::new(&keywire, &Mix::USUAL, &alone).named("without them"),
    ];
    let rounds = Rounds::play(bench, &sides)?;
    let mut figures = rounds.figures();
    figures.push(rounds.cpu_ratio(0, 1));
    Ok(vec![Finding {
        name: "never-read".into(),
        what: "50 clients, 16 deep: with 200 that never read / without".into(),
        unit: Unit::OfOurs,
        spread: rounds.ratio(0, 1),
        goal: Goal::AtLeast(0.9),
        figures,
    }])
}
