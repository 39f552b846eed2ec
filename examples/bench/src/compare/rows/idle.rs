//! What a client costs in memory that does nothing, and one that has done something once.

use std::{thread, time::Duration};

use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Spread, Unit},
        programs::Kind,
        server::Server,
        turns::Side,
    },
    load::Load,
    plan::Plan,
    work::Mix,
};

const CLIENTS: u32 = 10_000;

/// Redis takes back the buffers of idle clients in a cycle of some seconds; this is time enough.
const REST: Duration = Duration::from_secs(3);

/// KiB a client, before it has done anything and after.
struct Cost {
    idle: f64,
    was_active: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    let rounds = bench.rounds(|| {
        let keywire = cost(&bench.start(Kind::KEYWIRE, CLIENTS as usize)?)?;
        // The goals are for us alone, Redis is there for orientation.
        let redis = bench.start(Kind::Redis, CLIENTS as usize).ok();
        Ok((keywire, redis.as_ref().map(cost).transpose()?))
    })?;
    let finding = |name: &str, what: &str, goal: f64, cost: fn(&Cost) -> f64| {
        let redis = rounds.iter().filter_map(|(_, redis)| redis.as_ref());
        let redis = Spread::of(redis.map(cost)).median;
        Finding {
            name: name.into(),
            what: what.into(),
            unit: Unit::KiB,
            spread: Spread::of(rounds.iter().map(|(keywire, _)| cost(keywire))),
            goal: Goal::AtMost(goal),
            figures: match redis.is_nan() {
                true => Vec::new(),
                false => vec![format!("Redis: {redis:.2} KiB")],
            },
        }
    };
    let idle = "resident memory of each of 10,000 idle clients";
    let active = "the same after each has sent 16 operations and gone idle";
    Ok(vec![
        finding("idle", idle, 1.5, |cost| cost.idle),
        finding("idle again", active, 2.0, |cost| cost.was_active),
    ])
}

fn cost(server: &Server) -> Result<Cost, String> {
    // Without a time to work, each client sends one batch.
    let plan = |clients: u32| Plan {
        clients,
        depth: 16,
        first_depth: None,
        rate: None,
        writers: 0,
        never_read: 0,
        unread: 1,
        seconds: Duration::ZERO,
        warmup: Duration::ZERO,
        seed: 1,
    };
    let name = server.kind.name();
    let resident = || {
        server.settle();
        let bytes = server.process.resident();
        bytes
            .map(|bytes| bytes as f64 / 1024.0)
            .ok_or_else(|| format!("can't tell the memory of {name}"))
    };
    let few = plan(1);
    let many = plan(CLIENTS);
    let side = Side::new(server, &Mix::USUAL, &many);
    side.fill()?;

    // What any first client makes the server allocate is not the cost of the next ten thousand.
    let said = |error: Box<dyn std::error::Error>| format!("{name}: {error}");
    Load::connect(&server.target, &few, &side.work)
        .map_err(said)?
        .run(None);

    let before = resident()?;
    let mut load = Load::connect(&server.target, &many, &side.work).map_err(said)?;
    if let Kind::Keywire { .. } = server.kind {
        server.has_active(CLIENTS.into())?;
    }
    let idle = resident()? - before;
    if let Some(error) = load.run(None).first_error {
        return Err(format!("{name}: {error}"));
    }
    thread::sleep(REST);
    let was_active = resident()? - before;
    Ok(Cost {
        idle: idle / f64::from(CLIENTS),
        was_active: was_active / f64::from(CLIENTS),
    })
}
