//! The store on a cluster of three masters, everything on the same two cores, beside redis-benchmark on the
//! masters alone.
//!
//! Both do 90 % reads and 10 % writes on 10,000 keys. Ours writes by `Update`, which is a script on the
//! cluster; redis-benchmark writes by `SET`.

use std::thread;

use crate::{
    compare::{
        Bench,
        cluster::Nodes,
        cores,
        finding::{Finding, Goal, Spread, Unit},
        programs::Kind,
        server::Server,
        turns::{Side, Turn},
    },
    load::Load,
    plan::Plan,
    report::grouped,
    work::Mix,
};

const CLIENTS: u32 = 10_000;

/// What a server with its load did, and the masters for it.
struct Done {
    turn: Turn,
    /// CPU time of the masters for an operation, in microseconds.
    nodes: f64,
}

/// Beside redis-benchmark with as many clients and as deep.
pub(super) fn rate(
    bench: &Bench,
    name: &str,
    depth: u32,
    goal: f64,
    cpu_goal: Option<f64>,
) -> Result<Vec<Finding>, String> {
    on_both_cores(bench, |bench, nodes| {
        let plan = bench.plan(50, depth);
        let server = start(bench, nodes, &plan)?;
        let side = Side::new(&server, &Mix::USUAL, &plan);
        side.fill()?;
        nodes.fill(&Mix::USUAL)?;
        let rounds = bench.rounds(|| {
            let done = measure(nodes, &side)?;
            let benchmark = nodes.turn(&Mix::USUAL, (50, depth), bench.seconds)?;
            Ok((done, benchmark))
        })?;
        let spread = |figure: fn(&(Done, f64)) -> f64| Spread::of(rounds.iter().map(figure));
        let [ours, theirs] = [spread(|it| it.0.turn.rate), spread(|it| it.1)];
        let figures = vec![
            format!(
                "keywire {} op/s, redis-benchmark {} op/s (GET and SET, a run each, weighted)",
                grouped(ours.median as u64),
                grouped(theirs.median as u64)
            ),
            format!(
                "CPU an operation: keywire {:.2} µs, the masters {:.2} µs",
                spread(|it| it.0.turn.cpu).median,
                spread(|it| it.0.nodes).median
            ),
        ];
        let what = format!("on a cluster: 50 clients, {depth} deep");
        let cpu = cpu_goal.map(|goal| Finding {
            name: format!("{name} CPU"),
            what: format!("{what}: CPU time of keywire for an operation"),
            unit: Unit::Microseconds,
            spread: spread(|it| it.0.turn.cpu),
            goal: Goal::AtMost(goal),
            figures: Vec::new(),
        });
        let rate = Finding {
            name: name.into(),
            what: format!("{what} / redis-benchmark"),
            unit: Unit::OfRedis,
            spread: spread(|it| it.0.turn.rate / it.1),
            goal: Goal::AtLeast(goal),
            figures,
        };
        Ok(std::iter::once(rate).chain(cpu).collect())
    })
}

/// Many clients of one server: how many connections it has to the masters.
pub(super) fn connections(bench: &Bench) -> Result<Vec<Finding>, String> {
    on_both_cores(bench, |bench, nodes| {
        let plan = bench.plan(CLIENTS, 1);
        let server = start(bench, nodes, &plan)?;
        let side = Side::new(&server, &Mix::USUAL, &plan);
        side.fill()?;
        let rounds = bench.rounds(|| {
            let load = Load::connect(&server.target, &plan, &side.work);
            let mut load = load.map_err(|error| error.to_string())?;
            server.has_active(CLIENTS.into())?;
            let outcome = load.run(Some(&server.process));
            match outcome.first_error {
                Some(error) => Err(error),
                None => Ok((nodes.connections()?, Turn::new(outcome, None))),
            }
        })?;
        let rate = Spread::of(rounds.iter().map(|it| it.1.rate)).median;
        Ok(vec![Finding {
            name: "cluster-10000".into(),
            what: "on a cluster: connections to three masters beside 10,000 clients".into(),
            unit: Unit::Count,
            spread: Spread::of(rounds.iter().map(|it| it.0 as f64)),
            goal: Goal::AtMost(10.0),
            figures: vec![format!("{} op/s, no errors", grouped(rate as u64))],
        }])
    })
}

/// Two servers with half the clients each, and one with all.
pub(super) fn two(bench: &Bench) -> Result<Vec<Finding>, String> {
    on_both_cores(bench, |bench, nodes| {
        let [half, whole] = [bench.plan(25, 16), bench.plan(50, 16)];
        let servers = [
            start(bench, nodes, &half)?,
            start(bench, nodes, &half)?,
            start(bench, nodes, &whole)?,
        ];
        let sides = [
            Side::new(&servers[0], &Mix::USUAL, &half).named("one of two"),
            Side::new(&servers[1], &Mix::USUAL, &half).named("the other of two"),
            Side::new(&servers[2], &Mix::USUAL, &whole).named("one alone"),
        ];
        sides[0].fill()?;
        let rounds = bench.rounds(|| {
            let [first, second] = thread::scope(|scope| {
                let other = scope.spawn(|| sides[1].measure());
                let first = sides[0].measure();
                let died = |_| Err("the load has died".into());
                [first, other.join().unwrap_or_else(died)]
            });
            let sum = first?.rate + second?.rate;
            servers.iter().for_each(Server::settle);
            Ok((sum, sides[2].turn()?.rate))
        })?;
        let spread = |figure: fn(&(f64, f64)) -> f64| Spread::of(rounds.iter().map(figure));
        let [both, one] = [spread(|it| it.0), spread(|it| it.1)];
        Ok(vec![Finding {
            name: "cluster-two".into(),
            what: "on a cluster: 2 servers / 1, 50 clients in all, 16 deep".into(),
            unit: Unit::OfOurs,
            spread: spread(|it| it.0 / it.1),
            goal: Goal::AtLeast(1.0),
            figures: vec![format!(
                "two {} op/s, one {} op/s",
                grouped(both.median as u64),
                grouped(one.median as u64)
            )],
        }])
    })
}

fn start(bench: &Bench, nodes: &Nodes, plan: &Plan) -> Result<Server, String> {
    let kind = Kind::Cluster { node: nodes.port() };
    bench.start_on(kind, cores::BOTH, plan.sockets())
}

/// With what the masters used. Other programs are not told from them, so no round is repeated for these.
fn measure(nodes: &Nodes, side: &Side<'_>) -> Result<Done, String> {
    let before = nodes.time();
    let turn = side.turn()?;
    let used = nodes.time().zip(before).map(|(now, before)| now - before);
    // The time is that of the warm-up and of filling pipes, too.
    let operations = turn.rate * side.seconds_with_warmup();
    Ok(Done {
        nodes: used.map_or(f64::NAN, |used| used.as_secs_f64() * 1e6 / operations),
        turn,
    })
}

fn on_both_cores<T>(
    bench: &Bench,
    measure: impl FnOnce(&Bench, &Nodes) -> Result<T, String>,
) -> Result<T, String> {
    let nodes = Nodes::start(&bench.programs)?;
    cores::pin(cores::BOTH)?;
    let done = measure(bench, &nodes);
    cores::pin(cores::LOAD)?;
    done
}
