//! A key with 100,000 values that is filled and deleted over and over, and how long others wait
//! meanwhile.

use std::{
    io::{self, Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use socket2::Socket;

use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Spread, Unit},
        programs::Kind,
        turns::{Side, Turn},
    },
    connect::Target,
    work::Mix,
};

const VALUES: usize = 100_000;

/// Values in one write: the thread that fills has a core together with those that wait, and must
/// not keep it for long.
const WRITE: usize = 500;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    let plan = bench.plan(20, 1);
    let mix = Mix {
        writes: 0,
        ..Mix::USUAL
    };
    let keywire = bench.start(Kind::KEYWIRE, plan.sockets())?;
    let side = Side::new(&keywire, &mix, &plan);
    side.fill()?;
    let disturbed = |(_, _, quiet): &(Turn, Vec<f64>, Turn)| quiet.is_disturbed();
    let rounds = bench.rounds_but(disturbed, || {
        let quiet = side.turn()?;
        let stop = AtomicBool::new(false);
        let (turn, deletes) = thread::scope(|scope| {
            let filler = scope.spawn(|| fill_and_delete(&keywire.target, &stop));
            let turn = side.measure();
            stop.store(true, Ordering::Relaxed);
            (turn, filler.join())
        });
        let deletes = deletes
            .map_err(|_| "the client that deletes panicked".to_owned())?
            .map_err(|error| format!("the client that deletes: {error}"))?;
        keywire.settle();
        Ok((turn?, deletes, quiet))
    })?;

    let millis = |turn: &Turn| turn.p999.as_secs_f64() * 1e3;
    let quiet = Spread::of(rounds.iter().map(|(_, _, quiet)| millis(quiet))).median;
    let deletes = rounds.iter().flat_map(|(_, deletes, _)| deletes);
    let deletes = Spread::of(deletes.map(|seconds| seconds * 1e3));
    Ok(vec![Finding {
        name: "delete".into(),
        what: "p99.9 of 20 clients' Gets while a key of 100,000 values is filled and deleted"
            .into(),
        unit: Unit::Milliseconds,
        spread: Spread::of(rounds.iter().map(|(turn, _, _)| millis(turn))),
        // "A few".
        goal: Goal::AtMost(5.0),
        figures: vec![
            format!("without them p99.9 is {quiet:.2} ms"),
            format!(
                "{} deletes took {:.2} ms, {:.2} to {:.2}, from command to fence",
                deletes.rounds, deletes.median, deletes.min, deletes.max
            ),
        ],
    }])
}

/// Tells how long each delete took, in seconds.
fn fill_and_delete(target: &Target, stop: &AtomicBool) -> io::Result<Vec<f64>> {
    let mut socket = target.open()?;
    let puts = b"Put:large:abcdefghijklmnop\n".repeat(WRITE);
    let mut deletes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..VALUES / WRITE {
            socket.write_all(&puts)?;
        }
        confirm(&mut socket, b"Sync\n")?;
        let start = Instant::now();
        confirm(&mut socket, b"Delete:large\nSync\n")?;
        deletes.push(start.elapsed().as_secs_f64());
    }
    Ok(deletes)
}

fn confirm(socket: &mut Socket, commands: &[u8]) -> io::Result<()> {
    const FENCED: &[u8] = b":sync:0:\n";
    socket.write_all(commands)?;
    let mut reply = [0; FENCED.len()];
    socket.read_exact(&mut reply)?;
    match reply == FENCED {
        true => Ok(()),
        false => Err(io::Error::other(reply.escape_ascii().to_string())),
    }
}
