//! How throughput falls as keys grow in number, for each contestant against its own beginning.

use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Unit},
        programs::Kind,
        turns::{Rounds, Side},
    },
    report::grouped,
    work::Mix,
};

const KEYS: [u32; 3] = [10_000, 100_000, 1_000_000];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = bench.plan(50, 16);
    // All at once, so that what is compared is from the same round.
    let mut servers = Vec::new();
    for kind in [Kind::KEYWIRE, Kind::Redis] {
        for keys in KEYS {
            servers.push((bench.start(kind, plan.sockets())?, keys));
        }
    }
    let sides: Vec<_> = servers
        .iter()
        .map(|(server, keys)| {
            let mix = Mix {
                keys: *keys,
                ..Mix::USUAL
            };
            let name = format!("{}, {} keys", server.kind.name(), grouped((*keys).into()));
            Side::new(server, &mix, &plan).named(name)
        })
        .collect();
    let rounds = Rounds::play(bench, &sides)?;

    let findings = [(1, "keys 10^5"), (2, "keys 10^6")].map(|(step, name)| {
        let count = grouped(KEYS[step].into());
        let keeps = |first: usize| rounds.ratio(first + step, first).median * 100.0;
        let (keywire, redis) = (keeps(0), keeps(KEYS.len()));
        let kept = format!("keywire keeps {keywire:.0} %, Redis {redis:.0} %");
        // All sides are in the figures of the first.
        let all = if step == 1 {
            rounds.figures()
        } else {
            Vec::new()
        };
        Finding {
            name: name.into(),
            what: format!("{count} keys: what is kept of 10,000 keys' rate"),
            unit: Unit::OfRedis,
            spread: rounds.spread(|turns| {
                let keeps = |first: usize| turns[first + step].rate / turns[first].rate;
                keeps(0) / keeps(KEYS.len())
            }),
            goal: Goal::AtLeast(1.0),
            figures: [vec![kept], all].concat(),
        }
    });
    Ok(findings.into())
}
