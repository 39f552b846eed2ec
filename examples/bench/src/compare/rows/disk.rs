//! The store on a disk, beside Redis that syncs its log before each answer, and beside what ours does
//! without.

use std::time::Duration;

use super::beside;
use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Spread, Unit},
        programs::Kind,
        server::Server,
        turns::{Rounds, Side, Turn},
    },
    plan::Plan,
    report::grouped,
    work::Mix,
};

pub(super) const WRITES: Mix = Mix {
    writes: 100,
    ..Mix::SET
};

pub(super) const MILLION: Mix = Mix {
    keys: 1_000_000,
    value_size: 100,
    ..WRITES
};

const READS: Mix = Mix {
    writes: 0,
    ..Mix::SET
};

const REDIS: Kind = Kind::RedisLog { rewrites: true };

/// Reads a second of 50 clients. Neither server is the limit of that.
const READ_RATE: u32 = 5_000;

/// So long is no log of a row: there is no snapshot.
const NO_SNAPSHOT: u64 = 1 << 40;

pub(super) fn rate(
    bench: &Bench,
    name: &str,
    mix: &Mix,
    depth: u32,
    goal: f64,
) -> Result<Vec<Finding>, String> {
    let writes = match mix.writes {
        100 => "all writes, ",
        _ => "",
    };
    let size = match mix.keys {
        1_000_000 => ", 1,000,000 keys of 100 bytes",
        _ => "",
    };
    let what = format!("on a disk: {writes}50 clients, {depth} deep{size}");
    let plan = bench.plan(50, depth);
    beside(bench, Kind::DISK, &[(REDIS, goal)], name, &what, mix, &plan)
}

/// 50 clients that read at a fixed rate, beside others that write as fast as they can.
fn reads_beside(bench: &Bench, writers: u32) -> Plan {
    Plan {
        rate: Some(READ_RATE),
        writers,
        ..bench.plan(50, 1)
    }
}

/// How long readers wait while others write.
pub(super) fn readers(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = reads_beside(bench, 10);
    let servers = [
        bench.start(Kind::DISK, plan.sockets())?,
        bench.start(REDIS, plan.sockets())?,
    ];
    let sides: Vec<_> = servers
        .iter()
        .map(|server| Side::new(server, &READS, &plan))
        .collect();
    let rounds = Rounds::play(bench, &sides)?;
    Ok(vec![Finding {
        name: "disk-readers".into(),
        what: format!(
            "on a disk: p99 of {} reads/s beside 10 clients that only write",
            grouped(READ_RATE.into())
        ),
        unit: Unit::CostOfRedis,
        spread: rounds.spread(|turns| turns[0].p99.as_secs_f64() / turns[1].p99.as_secs_f64()),
        goal: Goal::AtMost(0.5),
        figures: latencies(&rounds, ["keywire", "Redis"], |turn| turn.p99, "p99"),
    }])
}

/// What a side's readers and its writers had.
fn latencies(
    rounds: &Rounds,
    names: [&str; 2],
    time: fn(&Turn) -> Duration,
    quantile: &str,
) -> Vec<String> {
    let side = |(side, name): (usize, &str)| {
        let median = |figure: fn(&Turn) -> f64| rounds.spread(|turns| figure(&turns[side])).median;
        let time = rounds.spread(|turns| time(&turns[side]).as_secs_f64() * 1e6);
        format!(
            "{name}: {quantile} {:.0} µs ({:.0} to {:.0}); {} reads/s, {} writes/s",
            time.median,
            time.min,
            time.max,
            grouped(median(|turn| turn.rate) as u64),
            grouped(median(|turn| turn.write_rate) as u64),
        )
    };
    let sides = names.into_iter().enumerate().map(side);
    sides.chain(rounds.doubt()).collect()
}

/// What a write costs beyond what it costs in memory alone, all threads of the server counted.
pub(super) fn cpu(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = bench.plan(50, 16);
    let servers = [
        bench.start(Kind::DISK, plan.sockets())?,
        bench.start(Kind::KEYWIRE, plan.sockets())?,
    ];
    let sides: Vec<_> = servers
        .iter()
        .map(|server| Side::new(server, &WRITES, &plan))
        .collect();
    let rounds = Rounds::play(bench, &sides)?;
    Ok(vec![Finding {
        name: "disk-cpu".into(),
        what: "CPU time of a write on a disk - in memory, 50 clients, 16 deep".into(),
        unit: Unit::Microseconds,
        spread: rounds.spread(|turns| turns[0].cpu - turns[1].cpu),
        goal: Goal::AtMost(1.3),
        figures: rounds.figures(),
    }])
}

/// Of a server with 1,000,000 keys: MiB after it has loaded them from a client, and seconds from a new
/// start until it serves them.
struct Loaded {
    memory: f64,
    start: f64,
}

/// Redis has all its writes in its log, and no rewritten base, so that both read what the clients sent.
pub(super) fn start(bench: &Bench) -> Result<Vec<Finding>, String> {
    let load = |kind: Kind| -> Result<Loaded, String> {
        let plan = bench.plan(1, 1);
        let mut server = bench.start(kind, plan.sockets())?;
        let side = Side::new(&server, &MILLION, &plan);
        side.fill()?;
        let work = side.work;
        server.settle();
        let bytes = server.process.resident();
        let bytes = bytes.ok_or_else(|| format!("can't tell the memory of {}", kind.name()))?;
        let start = server.restart(&bench.programs, &work)?;
        Ok(Loaded {
            memory: bytes as f64 / f64::from(1 << 20),
            start: start.as_secs_f64(),
        })
    };
    let rounds = bench.rounds(|| {
        let redis = Kind::RedisLog { rewrites: false };
        Ok([load(Kind::DISK)?, load(redis)?])
    })?;
    let finding = |name: &str, what: &str, goal: f64, unit: &str, figure: fn(&Loaded) -> f64| {
        let median = |side: usize| {
            let figures = rounds.iter().map(|round| figure(&round[side]));
            Spread::of(figures).median
        };
        let ratio = |[ours, theirs]: &[Loaded; 2]| figure(ours) / figure(theirs);
        Finding {
            name: name.into(),
            what: format!("on a disk: {what}, 1,000,000 keys of 100 bytes"),
            unit: Unit::CostOfRedis,
            spread: Spread::of(rounds.iter().map(ratio)),
            goal: Goal::AtMost(goal),
            figures: vec![format!(
                "keywire {:.2} {unit}, Redis {:.2} {unit}",
                median(0),
                median(1)
            )],
        }
    };
    Ok(vec![
        finding("disk memory", "resident memory", 1.2, "MiB", |it| it.memory),
        finding("disk start", "start to first Get", 1.0, "s", |it| it.start),
    ])
}

/// How long readers and writers wait while snapshots are taken, one after the other.
pub(super) fn snapshot(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = reads_beside(bench, 50);
    let start = |min_log: u64| {
        let min_log = Some(min_log);
        bench.start(Kind::Disk { min_log }, plan.sockets())
    };
    let [with, without] = [start(1)?, start(NO_SNAPSHOT)?];
    let sides = [
        Side::new(&with, &READS, &plan).named("with snapshots"),
        Side::new(&without, &READS, &plan).named("without"),
    ];
    let rounds = Rounds::play(bench, &sides)?;
    let [commits, none] = [replaced(&with)?, replaced(&without)?];
    if commits == 0 || none > 0 {
        return Err(format!(
            "snapshots replaced {commits} commits where there should be some, {none} where none"
        ));
    }
    let finding = |name: &str, who: &str, time: fn(&Turn) -> Duration| {
        let mut figures = latencies(&rounds, ["with snapshots", "without"], time, "p99.9");
        figures.push(format!(
            "snapshots replaced {} commits of the log",
            grouped(commits)
        ));
        Finding {
            name: name.into(),
            what: format!("on a disk: p99.9 of {who} with snapshots / without"),
            unit: Unit::CostOfOurs,
            spread: rounds
                .spread(|turns| time(&turns[0]).as_secs_f64() / time(&turns[1]).as_secs_f64()),
            goal: Goal::AtMost(2.0),
            figures,
        }
    };
    Ok(vec![
        finding("snapshot, readers", "readers", |turn| turn.p999),
        finding("snapshot, writers", "50 writers", |turn| turn.write_p999),
    ])
}

/// Commits that are in a snapshot and no longer in the log.
fn replaced(server: &Server) -> Result<u64, String> {
    Ok(server
        .stat("commits")?
        .saturating_sub(server.stat("log_commits")?))
}
