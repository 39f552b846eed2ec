//! Loads a keywire server, or a Redis server with the same work, and prints what came of it:
//! operations a second, latencies, and the CPU time that the server spent on an operation. Or
//! compares the two: starts both, lets them take turns, prints the ratios, and draws them.
//!
//! ```text
//! cargo build --profile fast --examples
//! cargo run --profile fast -p keywire-bench -- compare
//! cargo run --profile fast -p keywire-bench -- compare --rounds 9 --svg examples/bench/chart.svg
//! cargo run --profile fast -p keywire-bench -- compare --row 50x16 --row idle
//! ```
//!
//! The profile `fast` is `release` with link-time optimization and one codegen unit; it takes twice
//! as long to build. The comparison takes some minutes; `compare --help` names the rows. The first
//! Ctrl-C ends the row after its round and still prints the table, the second ends everything.
//! memcached is not among the contestants: it has no lists, and pipelining gains it little.
//!
//! One load against one server, which has to be running. Every byte that comes back is compared
//! with what the server has to say. The load runs in one thread; give it a core and the server
//! another:
//!
//! ```text
//! taskset -c 0 cargo run --profile fast --example server
//! taskset -c 1 cargo run --profile fast -p keywire-bench -- --clients 50 --depth 16
//! taskset -c 1 cargo run --profile fast -p keywire-bench -- --clients 50 --rate 80000
//!
//! taskset -c 0 redis-server --save "" --appendonly no
//! taskset -c 1 cargo run --profile fast -p keywire-bench -- --redis --clients 50 --depth 16
//! ```
//!
//! The loop is closed: each client sends a batch of operations in one write, reads until it has
//! every reply, and sends the next. With `--rate` it is open: batches are due at fixed times, and
//! latency counts from then, so that a server that stalls is not asked less, nor measured less.
//!
//! "load CPU" near 100 % of a core means that the load was the limit, not the server; in the open
//! loop it waits busily and tells nothing. Where neither is near it, other programs had the cores:
//! then only the CPU time an operation says something. The keys are `key00000000` and up; what they
//! held before is lost.
//!
//! The exit code is 0 where every reply was right, and every row could be measured; 1 otherwise.

mod client;
mod compare;
mod connect;
mod cpu;
mod fill;
mod load;
mod plan;
mod report;
mod schedule;
mod work;

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    connect::Target,
    cpu::Process,
    load::Load,
    plan::Plan,
    report::Report,
    work::{Mix, Work},
};

/// Loads a keywire or Redis server: clients send batches, wait for every reply, send again.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    Compare(compare::Options),
}

#[derive(Args)]
struct Run {
    /// The server: a TCP address, or unix:PATH [default: 127.0.0.1:9999, for Redis 127.0.0.1:6379]
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
    /// Speak to a Redis server, with the same work as GET and SET
    #[arg(long)]
    redis: bool,
    #[command(flatten)]
    plan: Plan,
    #[command(flatten)]
    mix: Mix,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.command {
        Some(Command::Compare(options)) => compare::compare(options),
        None => run(&options.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether every reply was right.
fn run(options: &Run) -> Result<bool, Box<dyn Error>> {
    let (name, work, address) = if options.redis {
        ("Redis", Work::redis(&options.mix), "127.0.0.1:6379")
    } else {
        ("keywire", Work::keywire(&options.mix), "127.0.0.1:9999")
    };
    let address = options.connect.as_deref().unwrap_or(address);

    connect::allow_sockets(options.plan.sockets())?;
    let start = Instant::now();
    let target = Target::find(address)?;
    fill::fill(&target, &work)?;
    let filled = start.elapsed();

    let start = Instant::now();
    let mut load = Load::connect(&target, &options.plan, &work)?;
    let connected = start.elapsed();

    let server = Process::serving(&target);
    let outcome = load.run(server.as_ref());
    let report = Report {
        name,
        target: &target,
        plan: &options.plan,
        mix: &options.mix,
        filled,
        connected,
        server: server.as_ref(),
        outcome: &outcome,
    };
    io::stdout().write_all(report.to_string().as_bytes())?;
    Ok(outcome.errors == 0)
}
