//! The rows: what is measured, and the goal for each.

mod cluster;
mod connect;
mod delete;
mod disk;
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
        programs::Kind,
        turns::{Rounds, Side},
    },
    plan::Plan,
    report::grouped,
    work::Mix,
};

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) measure: fn(&Bench) -> Result<Vec<Finding>, String>,
    /// It is measured beside kevy, too.
    pub(crate) has_kevy: bool,
}

impl Row {
    /// Its name, or that of the group in which it is.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        name == self.name || (GROUPS.contains(&name) && self.is_in(name))
    }

    fn is_in(&self, group: &str) -> bool {
        let rest = self.name.strip_prefix(group);
        rest.is_some_and(|rest| rest.starts_with('-'))
    }

    pub(crate) fn is_clustered(&self) -> bool {
        self.is_in("cluster")
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.is_in("disk")
    }
}

/// The rows of the store on a disk, all together, and those of the store on a cluster.
pub(crate) const GROUPS: [&str; 2] = ["disk", "cluster"];

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn row(name: &'static str, measure: fn(&Bench) -> Result<Vec<Finding>, String>) -> Row {
    Row {
        name,
        measure,
        has_kevy: false,
    }
}

/// A row of [`against_peers`].
const fn peers(name: &'static str, measure: fn(&Bench) -> Result<Vec<Finding>, String>) -> Row {
    Row {
        has_kevy: true,
        ..row(name, measure)
    }
}

pub(crate) const ROWS: &[Row] = &[
    peers("50x1", |bench| usual(bench, "50x1", (50, 1), [1.0, 1.0])),
    peers("50x16", |bench| {
        usual(bench, "50x16", (50, 16), [1.6, 1.15])
    }),
    peers("50x100", |bench| {
        usual(bench, "50x100", (50, 100), [3.0, 1.3])
    }),
    peers("1000x1", |bench| {
        usual(bench, "1000x1", (1_000, 1), [1.0, 1.0])
    }),
    peers("1000x16", |bench| {
        usual(bench, "1000x16", (1_000, 16), [1.0, 1.0])
    }),
    peers("10000x1", |bench| {
        usual(bench, "10000x1", (10_000, 1), [1.0, 1.0])
    }),
    peers("10x10", |bench| usual(bench, "10x10", (10, 10), [1.0, 1.0])),
    row("never-read", never_read),
    peers("writes", |bench| {
        let mix = Mix {
            writes: 100,
            ..Mix::USUAL
        };
        mixed(bench, "writes", "all writes", &mix, 16)
    }),
    peers("keys-1m", |bench| {
        let mix = Mix {
            keys: 1_000_000,
            ..Mix::USUAL
        };
        mixed(bench, "keys-1m", "1,000,000 keys", &mix, 16)
    }),
    peers("100b", |bench| values(bench, "100b", 100, 16)),
    peers("400b", |bench| values(bench, "400b", 400, 16)),
    peers("1000b", |bench| values(bench, "1000b", 1_000, 1)),
    peers("4k", |bench| values(bench, "4k", 4_096, 16)),
    peers("100b-reads", |bench| reads(bench, "100b-reads", 100)),
    peers("400b-reads", |bench| reads(bench, "400b-reads", 400)),
    peers("4k-reads", |bench| reads(bench, "4k-reads", 4_096)),
    peers("list", list),
    row("keys", keys::measure),
    row("open", latency::measure),
    row("connect", connect::measure),
    row("threads", threads::measure),
    row("fair", threads::fairness),
    row("runtimes", runtimes),
    row("idle", idle::measure),
    row("delete", delete::measure),
    row("fan-out", fanout::measure),
    row("disk-writes-1", |bench| {
        disk::rate(bench, "disk-writes-1", &disk::WRITES, 1, 1.2)
    }),
    row("disk-writes-16", |bench| {
        disk::rate(bench, "disk-writes-16", &disk::WRITES, 16, 1.5)
    }),
    row("disk-writes-1m", |bench| {
        disk::rate(bench, "disk-writes-1m", &disk::MILLION, 16, 1.5)
    }),
    row("disk-50x1", |bench| {
        disk::rate(bench, "disk-50x1", &Mix::SET, 1, 1.5)
    }),
    row("disk-50x16", |bench| {
        disk::rate(bench, "disk-50x16", &Mix::SET, 16, 1.5)
    }),
    row("disk-readers", disk::readers),
    row("disk-cpu", disk::cpu),
    row("disk-start", disk::start),
    row("disk-snapshot", disk::snapshot),
    row("cluster-50x1", |bench| {
        cluster::rate(bench, "cluster-50x1", 1, 0.7, None)
    }),
    row("cluster-50x16", |bench| {
        cluster::rate(bench, "cluster-50x16", 16, 0.6, Some(2.5))
    }),
    row("cluster-10000", cluster::connections),
    row("cluster-two", cluster::two),
];

fn usual(
    bench: &Bench,
    name: &str,
    (clients, depth): (u32, u32),
    goals: [f64; 2],
) -> Result<Vec<Finding>, String> {
    let what = format!("{} clients, {depth} deep", grouped(clients.into()));
    let plan = bench.plan(clients, depth);
    against_peers(bench, name, &what, &Mix::USUAL, &plan, goals)
}

/// Other work than the usual, of 50 clients.
fn mixed(
    bench: &Bench,
    name: &str,
    what: &str,
    mix: &Mix,
    depth: u32,
) -> Result<Vec<Finding>, String> {
    let what = format!("{what}, 50 clients, {depth} deep");
    let plan = bench.plan(50, depth);
    against_peers(bench, name, &what, mix, &plan, [1.0, 1.0])
}

fn values(
    bench: &Bench,
    name: &str,
    value_size: usize,
    depth: u32,
) -> Result<Vec<Finding>, String> {
    let mix = Mix {
        value_size,
        ..Mix::USUAL
    };
    mixed(
        bench,
        name,
        &format!("values of {}", bytes(value_size)),
        &mix,
        depth,
    )
}

fn reads(bench: &Bench, name: &str, value_size: usize) -> Result<Vec<Finding>, String> {
    let mix = Mix {
        value_size,
        writes: 0,
        ..Mix::USUAL
    };
    let what = format!("values of {}, reads alone", bytes(value_size));
    mixed(bench, name, &what, &mix, 16)
}

fn bytes(count: usize) -> String {
    match count % 1024 {
        0 => format!("{} KiB", count / 1024),
        _ => format!("{} bytes", grouped(count as u64)),
    }
}

fn list(bench: &Bench) -> Result<Vec<Finding>, String> {
    let mix = Mix {
        keys: 100,
        list: 1_000,
        ..Mix::USUAL
    };
    mixed(bench, "list", "lists of 1,000 values", &mix, 1)
}

/// Beside each of the others that can be started, with the goals for Redis and kevy.
fn against_peers(
    bench: &Bench,
    name: &str,
    what: &str,
    mix: &Mix,
    plan: &Plan,
    [redis, kevy]: [f64; 2],
) -> Result<Vec<Finding>, String> {
    let goal = |peer: Kind| match peer {
        Kind::Kevy => (peer, kevy),
        _ => (peer, redis),
    };
    let peers: Vec<_> = bench.programs.peers().into_iter().map(goal).collect();
    if peers.is_empty() {
        return Err("there is no other server".into());
    }
    beside(bench, Kind::KEYWIRE, &peers, name, what, mix, plan)
}

/// One of ours beside others, each with its goal.
fn beside(
    bench: &Bench,
    ours: Kind,
    peers: &[(Kind, f64)],
    name: &str,
    what: &str,
    mix: &Mix,
    plan: &Plan,
) -> Result<Vec<Finding>, String> {
    let kinds = std::iter::once(ours).chain(peers.iter().map(|(kind, _)| *kind));
    let servers: Vec<_> = kinds
        .map(|kind| bench.start(kind, plan.sockets()))
        .collect::<Result<_, _>>()?;
    let sides: Vec<_> = servers
        .iter()
        .map(|server| Side::new(server, mix, plan))
        .collect();
    let rounds = Rounds::play(bench, &sides)?;
    let finding = |(&(peer, goal), side): (&(Kind, f64), usize)| {
        let (name, unit) = match peer {
            Kind::Kevy => (format!("{name} / kevy"), Unit::OfKevy),
            _ => (name.into(), Unit::OfRedis),
        };
        // All sides are in the figures of the first.
        let mut figures = match side {
            1 => rounds.figures(),
            _ => Vec::new(),
        };
        figures.push(rounds.cpu_ratio(0, side));
        Finding {
            name,
            what: what.into(),
            unit,
            spread: rounds.ratio(0, side),
            goal: Goal::AtLeast(goal),
            figures,
        }
    };
    Ok(peers.iter().zip(1..).map(finding).collect())
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
