//! A second thread, with the load on the same two cores: is it any good, and is anyone starved?

use crate::{
    compare::{
        Bench, cores,
        finding::{Finding, Goal, Spread, Unit},
        programs::Kind,
        turns::{Rounds, Side, Turn},
    },
    plan::Plan,
    work::Mix,
};

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    [(1, "threads 50x1"), (16, "threads 50x16")]
        .into_iter()
        .map(|(depth, name)| {
            let rounds = play(bench, &bench.plan(50, depth))?;
            Ok(Finding {
                name: name.into(),
                what: format!("2 threads / 1, load on their cores: 50 clients, {depth} deep"),
                unit: Unit::OfOurs,
                spread: rounds.ratio(0, 1),
                goal: Goal::AtLeast(1.0),
                figures: rounds.figures(),
            })
        })
        .collect()
}

/// One client that pipelines should not take the turns of those that don't.
pub(super) fn fairness(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = Plan {
        first_depth: Some(100),
        ..bench.plan(50, 1)
    };
    let rounds = play(bench, &plan)?;
    let finding = |side: usize, name: &str, threads: &str| Finding {
        name: name.into(),
        what: format!("slowest of 49 clients / median, beside one 100 deep: {threads}"),
        unit: Unit::OfOurs,
        spread: rounds.spread(|turns| slowest(&turns[side])),
        goal: Goal::AtLeast(0.5),
        figures: rounds
            .sides()
            .into_iter()
            .skip(side)
            .take(1)
            .chain(rounds.doubt())
            .collect(),
    };
    Ok(vec![
        finding(1, "fair, 1 thread", "1 thread"),
        finding(0, "fair, 2 threads", "2 threads"),
    ])
}

/// The first client is the one that is 100 deep.
fn slowest(turn: &Turn) -> f64 {
    let others = Spread::of(turn.turns.iter().skip(1).map(|&turns| turns as f64));
    others.min / others.median
}

/// Two threads and then one, on both cores with the load.
fn play(bench: &Bench, plan: &Plan) -> Result<Rounds, String> {
    let two = bench.start_on(Kind::Keywire { threads: 2 }, cores::BOTH, plan.sockets())?;
    let one = bench.start_on(Kind::KEYWIRE, cores::BOTH, plan.sockets())?;
    let sides = [
        Side::new(&two, &Mix::USUAL, plan).named("two threads"),
        Side::new(&one, &Mix::USUAL, plan).named("one thread"),
    ];
    cores::pin(cores::BOTH)?;
    let rounds = Rounds::play(bench, &sides);
    cores::pin(cores::LOAD)?;
    rounds
}
