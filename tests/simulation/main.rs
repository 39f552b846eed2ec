//! A server, its clients and the network between them, in one thread and under one seed.
//!
//! Every run is another one: clients that read, that don't, that are slow, that watch, that break
//! off, that say a secret or fail to, that find no place, the library's own client, a store with
//! faults that may be full, or one that answers late or never, a network that delivers as it likes,
//! and a shutdown at any moment. Tasks take their steps in any order, the server's own too. What every
//! client saw and what the server counted is held against the one history that the store kept.
//!
//! `SEED=n cargo test --test simulation` repeats one run, and prints it with `SHOW=1`. `RUNS=n` makes
//! so many, beginning with `FIRST=n`. `AGAIN=n` is how many are repeated to see that they are the same.

mod admission;
mod bounds;
mod callers;
mod check;
mod comes_back;
mod counts;
mod elsewhere;
mod fate;
mod history;
mod identify;
mod late;
mod limits;
mod listener;
mod lists;
mod network;
mod order;
mod release;
mod replay;
mod run;
mod script;
mod sent;
mod settings;
mod store;
mod subscribe;
mod walks;
mod watched;
mod world;

use std::{
    env,
    panic::{self, AssertUnwindSafe},
};

use run::run;

/// Runs in a plain `cargo test`.
const RUNS: u64 = 1000;

/// One run, after which no memory is left that was not there before. What a thread keeps for
/// itself, it has by the second time.
fn run_and_forget(run: fn(u64) -> u64, seed: u64) -> u64 {
    let mut trace = 0;
    let mut left = || allocation_counter::measure(|| trace = run(seed)).bytes_current;
    let once = left();
    if once != 0 {
        let again = left();
        assert_eq!(again, 0, "bytes are left");
    }
    trace
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn every_run_agrees_with_its_history() {
    run_all("every_run", run, RUNS);
}

#[test]
fn a_client_comes_back_without_a_write_twice_or_a_silent_gap() {
    run_all("a_client_comes_back", comes_back::run, RUNS / 4);
}

fn run_all(test: &str, run: fn(u64) -> u64, runs: u64) {
    if let Some(seed) = number("SEED") {
        run_and_forget(run, seed);
        return;
    }
    let runs = number("RUNS").unwrap_or(runs);
    let first = number("FIRST").unwrap_or(0);
    for seed in first..first + runs {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| run_and_forget(run, seed))) {
            eprintln!("SEED={seed} cargo test --test simulation {test} repeats it");
            panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_is_a_run_to_the_last_byte() {
    for seed in 0..number("AGAIN").unwrap_or(60) {
        assert_eq!(run(seed), run(seed), "seed {seed}");
        let comes_back = comes_back::run;
        assert_eq!(comes_back(seed), comes_back(seed), "seed {seed}");
    }
}
