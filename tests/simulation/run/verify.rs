//! After a run: whether all that was seen agrees.

use std::{collections::HashMap, env};

use super::{Peer, Run};
use crate::{
    admission, bounds, callers,
    check::{self, Check, Quiet},
    counts::{self, Totals},
    history::{Kind, Record},
    identify::{Directions, identify},
    limits,
    listener::AcceptQueue,
    order, replay,
    settings::Settings,
    watched::{self, Watched},
};

/// Holds everything that was seen against the history.
pub(super) fn check_run(run: &Run, peers: &[Peer]) {
    let settings = run.settings.borrow();
    let mut record = run.history.record();
    let directions: Vec<_> = peers
        .iter()
        .map(|peer| peer.connection.directions())
        .collect();
    if env::var_os("SHOW").is_some() {
        show(&settings, &record, &directions);
    }
    if let Some(kept) = settings.late {
        if identify(&mut record, &directions).is_none() {
            return;
        }
        order::sort(&mut record, &directions, (kept, settings.all_changes));
    }
    order::check_history(&record);
    check_counted(&record, &peers[0].quiet);
    let mut by_tag = HashMap::new();
    let told = record.entries.iter().enumerate();
    for (place, entry) in told.filter(|(_, entry)| entry.kind != Kind::Walk) {
        let twice = by_tag.insert(entry.tag, place);
        assert!(twice.is_none(), "{:?} was applied twice", entry.tag);
    }
    let mut checks = Vec::new();
    for (client, (down, up)) in directions.iter().enumerate() {
        let mut check = Check::new(client, &settings, (down, up), &record, &by_tag);
        check.run(&peers[client].quiet);
        checks.push(check);
        down.lines
            .iter()
            .for_each(|line| run.world.note(&line.text));
    }
    let came = peers.iter().zip(&checks);
    let came: Vec<_> = came
        .map(|(peer, check)| (peer.arrived.get(), check.down, check.admission.turned_away))
        .collect();
    admission::check_full(&settings, &came, &peers[0].quiet);
    let watched = checks.iter().zip(peers);
    let watched = watched.map(|(check, peer)| Watched::of(check, &peer.quiet));
    let watched: Vec<Watched> = watched.collect();
    for ((check, watched), peer) in checks.iter().zip(&watched).zip(peers) {
        watched::check_watched(check, watched, &peer.quiet);
        replay::check_replay(check, &peer.quiet);
        limits::check_limits(check);
        bounds::check_bounds(check, watched, &record, &peer.quiet);
    }
    let totals = Totals {
        settings: &settings,
        checks: &checks,
        watched: &watched,
        record: &record,
        handed: run.endpoints.handed.get() - AcceptQueue::late(&run.queue),
        accept_errors: AcceptQueue::errors(&run.queue),
    };
    let mut all_seen: Vec<(&Check<'_>, &check::Seen)> = checks
        .iter()
        .flat_map(|check| check.stats.iter().map(move |seen| (check, seen)))
        .collect();
    all_seen.sort_by_key(|(_, seen)| seen.stats.stats);
    for (check, seen) in &all_seen {
        totals.check_seen(check, seen);
    }
    for pair in all_seen.windows(2) {
        assert!(
            pair[0].1.stats.stats < pair[1].1.stats.stats,
            "the same Stats"
        );
        counts::follow(&pair[0].1.stats, &pair[1].1.stats);
    }
    let last = run.handle.stats();
    if let Some((_, seen)) = all_seen.last() {
        counts::follow(&seen.stats, &last);
    }
    totals.check_last(&last);
    for (client, peer) in peers.iter().enumerate() {
        if let Some(log) = &peer.log {
            let up = &directions[client].1;
            callers::check_calls(client, log, &record, &by_tag, &settings, up);
        }
    }
}

/// What the server had counted at moments of rest is what had been answered by then, where which of the
/// reads are commands was not known yet.
fn check_counted(record: &Record, quiet: &[Quiet]) {
    for quiet in quiet {
        let flight = quiet.flight.map(|flight| &record.flights[flight]);
        if let Some(counted) = flight.and_then(|flight| flight.counted) {
            let commands = record.entries.iter().filter(|entry| entry.is_command());
            let commands = commands.filter(|entry| entry.answered < quiet.at);
            assert_eq!(counted, commands.count() as u64, "at {quiet:?}");
        }
    }
}

/// For the one who looks into a run.
fn show(settings: &Settings, record: &Record, directions: &Directions) {
    eprintln!("{settings:?}");
    record.batches.iter().for_each(|batch| eprint!("{batch:?}"));
    record
        .entries
        .iter()
        .for_each(|entry| eprintln!("{entry:?}"));
    for (tag, walk) in &record.walks {
        eprintln!("walk {tag:?}: {walk:?}");
    }
    for (client, (down, up)) in directions.iter().enumerate() {
        eprintln!("client {client}:\n{up}was told:\n{down}");
    }
}
