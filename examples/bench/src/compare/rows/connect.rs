//! Connects, one after the other, each closed at once.

use std::time::Instant;

use crate::compare::{
    Bench,
    finding::{Finding, Goal, Spread, Unit},
    programs::Kind,
    server::Server,
};

const CONNECTS: usize = 5_000;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    let keywire = bench.start(Kind::KEYWIRE, CONNECTS)?;
    // The goal is one for us alone, Redis is there for orientation.
    let redis = bench.start(Kind::Redis, CONNECTS).ok();
    let files = keywire.process.open_files();

    let rounds = bench.rounds(|| {
        let ours = storm(&keywire)?;
        keywire.has_active(0)?;
        let theirs = redis.as_ref().map_or(Ok(f64::NAN), storm)?;
        Ok((ours, theirs))
    })?;
    let left = keywire.process.open_files();
    if left > files {
        return Err(format!(
            "keywire had {files:?} files open before, {left:?} after"
        ));
    }

    let mut figures = vec!["active clients and open files went back to what they were".into()];
    if redis.is_some() {
        let theirs = Spread::of(rounds.iter().map(|round| round.1)).median;
        figures.push(format!("Redis: {theirs:.0} a second"));
    }
    Ok(vec![Finding {
        name: "connect".into(),
        what: "5,000 connects in a row by one client".into(),
        unit: Unit::PerSecond,
        spread: Spread::of(rounds.iter().map(|round| round.0)),
        goal: Goal::AtLeast(10_000.0),
        figures,
    }])
}

/// Connects a second.
fn storm(server: &Server) -> Result<f64, String> {
    let source = server.target.sources();
    let start = Instant::now();
    for number in 0..CONNECTS {
        let visit = server.target.visit(source(number));
        visit.map_err(|error| format!("{}, connect {number}: {error}", server.kind.name()))?;
    }
    let time = start.elapsed().as_secs_f64();
    server.settle();
    Ok(CONNECTS as f64 / time)
}
