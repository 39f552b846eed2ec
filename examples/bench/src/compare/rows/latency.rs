//! Latency at a fixed rate that both contestants can keep up with.

use std::time::Duration;

use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Unit},
        programs::Kind,
        turns::{Rounds, Side, Turn},
    },
    plan::Plan,
    report::grouped,
    work::Mix,
};

/// The part of the slower one's capacity that is asked for.
const PART: f64 = 0.7;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    let closed = bench.plan(50, 1);
    let keywire = bench.start(Kind::KEYWIRE, closed.sockets())?;
    let redis = bench.start(Kind::Redis, closed.sockets())?;
    let servers = [&keywire, &redis];

    let mut capacity = f64::INFINITY;
    for server in servers {
        let side = Side::new(server, &Mix::USUAL, &closed);
        side.fill()?;
        capacity = capacity.min(side.turn()?.rate);
    }
    let rate = (capacity * PART).max(1.0) as u32;

    let plan = Plan {
        rate: Some(rate),
        ..closed
    };
    let sides = servers.map(|server| Side::new(server, &Mix::USUAL, &plan));
    let rounds = Rounds::play(bench, &sides)?;
    let figures = rounds.sides().into_iter().enumerate();
    let figures = figures.map(|(side, text)| {
        let median = |time: fn(&Turn) -> Duration| {
            let micros = rounds.spread(|turns| time(&turns[side]).as_secs_f64() * 1e6);
            format!("{:.0} µs", micros.median)
        };
        let [p50, p99, p999] = [
            median(|turn| turn.p50),
            median(|turn| turn.p99),
            median(|turn| turn.p999),
        ];
        format!("{text}, p50 {p50}, p99 {p99}, p99.9 {p999}")
    });
    Ok(vec![Finding {
        name: "open".into(),
        what: format!(
            "p99 at a fixed {} op/s, 50 clients, 1 deep",
            grouped(rate.into())
        ),
        unit: Unit::OfRedis,
        spread: rounds.spread(|turns| turns[1].p99.as_secs_f64() / turns[0].p99.as_secs_f64()),
        goal: Goal::AtLeast(1.0),
        figures: figures.chain(rounds.doubt()).collect(),
    }])
}
