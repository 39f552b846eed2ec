//! Keywire, Redis and kevy side by side: starts them, lets them take turns at the same work, and
//! prints the ratios and whether the goals are reached.
//!
//! A ratio is taken of two turns that follow each other. On a machine that others use too, the
//! figures of one hour say little about those of the next, and ratios of neighbours still hold.

mod chart;
mod cluster;
mod cores;
mod disk;
mod finding;
mod kevy;
mod others;
mod programs;
mod rows;
mod server;
mod turns;

use std::{
    error::Error,
    fs::OpenOptions,
    io::{self, LineWriter, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::{builder::PossibleValuesParser, value_parser};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use self::{
    finding::Finding,
    programs::{Kind, Programs},
    rows::{GROUPS, ROWS, Row},
    server::Server,
};
use crate::plan::{self, Plan};

/// Starts keywire, Redis and kevy on one core, loads them in turns from another, prints the ratios
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Turns that each contestant has in a row
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a turn is measured; it is warmed up for a third of that before
    #[arg(long, value_name = "S", default_value = "1.5", value_parser = plan::seconds)]
    seconds: Duration,
    /// A row to measure, once or more; "disk" and "cluster" are all rows of these stores [default: all]
    #[arg(long, value_name = "NAME",
          value_parser = PossibleValuesParser::new(GROUPS.into_iter().chain(ROWS.iter().map(|row| row.name))))]
    row: Vec<String>,
    /// Draw the ratios into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The example server [default: examples/server beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Where the servers with a disk have their data, each in a directory that is removed when it has
    /// ended [default: below the target directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What the rows share.
#[derive(Debug)]
pub(crate) struct Bench {
    programs: Programs,
    rounds: u32,
    seconds: Duration,
    interrupted: Arc<AtomicBool>,
}

impl Bench {
    /// Starts a server for so many clients, on its core.
    fn start(&self, kind: Kind, clients: usize) -> Result<Server, String> {
        self.start_on(kind, cores::SERVER, clients)
    }

    fn start_on(&self, kind: Kind, cores: &[usize], clients: usize) -> Result<Server, String> {
        Server::start(&self.programs, kind, cores, clients)
    }

    fn plan(&self, clients: u32, depth: u32) -> Plan {
        Plan {
            clients,
            depth,
            first_depth: None,
            rate: None,
            writers: 0,
            never_read: 0,
            unread: 1,
            seconds: self.seconds,
            warmup: self.seconds / 3,
            seed: 1,
        }
    }

    /// Repeats what makes a round. Those that were whole when a signal came are kept.
    fn rounds<T>(&self, round: impl FnMut() -> Result<T, String>) -> Result<Vec<T>, String> {
        self.rounds_but(|_| false, round)
    }

    /// Repeats a disturbed round too, where there are not more of these than of the others.
    fn rounds_but<T>(
        &self,
        disturbed: impl Fn(&T) -> bool,
        mut round: impl FnMut() -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let planned = self.rounds as usize;
        let (mut rounds, mut set_aside) = (Vec::new(), Vec::new());
        while rounds.len() < planned && set_aside.len() < planned && !self.interrupted() {
            let number = rounds.len() + set_aside.len() + 1;
            let done = round().map_err(|error| format!("round {number}: {error}"))?;
            match disturbed(&done) {
                true => set_aside.push(done),
                false => rounds.push(done),
            }
        }
        set_aside.truncate(planned - rounds.len());
        rounds.append(&mut set_aside);
        match rounds.is_empty() {
            true => Err("interrupted".into()),
            false => Ok(rounds),
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Tells whether every row could be measured; whether a goal is reached is for the reader.
pub(crate) fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let chosen =
        |row: &&Row| options.row.is_empty() || options.row.iter().any(|name| row.is_called(name));
    let rows: Vec<_> = ROWS.iter().filter(chosen).collect();
    let bench = Bench {
        programs: Programs::find(options, &rows)?,
        rounds: options.rounds,
        seconds: options.seconds,
        interrupted: Arc::default(),
    };
    if let Some(file) = &options.svg {
        // Better now than after the first row.
        let opened = OpenOptions::new().append(true).create(true).open(file);
        opened.map_err(|error| format!("can't write {}: {error}", file.display()))?;
    }
    for signal in [SIGINT, SIGTERM] {
        // The first ends the row after its round, the second ends the program.
        flag::register_conditional_shutdown(signal, 1, bench.interrupted.clone())?;
        flag::register(signal, bench.interrupted.clone())?;
    }
    // To be seen as it comes, and no panic where nobody reads it any more.
    let mut out = LineWriter::new(io::stdout());
    heading(&bench, &mut out)?;

    let (mut findings, mut missing) = (Vec::new(), Vec::new());
    writeln!(out, "{}", Finding::heading())?;
    for row in rows {
        let measured = match bench.interrupted() {
            true => Err("interrupted".into()),
            false => (row.measure)(&bench),
        };
        match measured {
            Ok(found) => {
                found
                    .iter()
                    .try_for_each(|finding| writeln!(out, "{finding}"))?;
                findings.extend(found);
            }
            Err(error) => {
                writeln!(out, "{:<18} not measured: {error}\n", row.name)?;
                missing.push(format!("{:<18} {error}", row.name));
            }
        }
        // The chart of many minutes' work is not to be lost by what comes after.
        if let Some(file) = &options.svg {
            chart::draw(file, &bench.programs.version, &findings)?;
        }
    }

    writeln!(out, "{}", Finding::heading())?;
    for finding in &findings {
        writeln!(out, "{}", finding.line())?;
    }
    if !missing.is_empty() {
        writeln!(out, "\nnot measured:\n{}", missing.join("\n"))?;
    }
    Ok(missing.is_empty())
}

/// Pins the load to its core, and says what is compared and what is not as it should be.
fn heading(bench: &Bench, out: &mut impl Write) -> io::Result<()> {
    for lack in bench.programs.lacks() {
        writeln!(out, "note: {lack}")?;
    }
    // In this order, so that the load has its own core in the end.
    for (who, cores) in [("the servers", cores::SERVER), ("the load", cores::LOAD)] {
        if let Err(error) = cores::pin(cores) {
            writeln!(out, "note: {error}; {who} may run on any core")?;
        }
    }
    writeln!(
        out,
        "keywire, {} and {}: {} rounds of turns, {} s a turn; the server on core 0, the load on core 1",
        bench.programs.version,
        kevy::Kevy::NAME,
        bench.rounds,
        bench.seconds.as_secs_f64(),
    )?;
    writeln!(
        out,
        "a round that other programs disturb is repeated, unless most are\n"
    )
}
