//! Clients that do not read for too long.

use std::collections::HashSet;

use keywire::Overflow;

use super::{MAX_EVENT, answers};
use crate::{
    check::{Check, Quiet},
    history::What,
    watched::Watched,
};

/// Who does not read, and has more lines coming than may wait, has been cut off.
pub(super) fn check_stalled(check: &Check<'_>, watched: &Watched, quiet: &[Quiet], most: usize) {
    let settings = check.settings;
    if settings.is_strict() || settings.is_throttled() {
        return;
    }
    let answers = answers(check);
    let rests = quiet;
    for quiet in rests
        .iter()
        .filter(|quiet| quiet.stalled && !check.waits(quiet))
    {
        let read = check.up.read_before(quiet.at);
        let handled = answers[..check.admission.heard(read, quiet.at)].iter();
        let coming = handled.filter(|answer| answer.written.is_none_or(|at| at > quiet.at));
        let coming = coming.filter(|a| !a.is_walk);
        let coming = coming.filter(|a| a.is_control || settings.overflow == Overflow::Disconnect);
        let lines: usize = coming.map(|answer| answer.lines).sum();
        let full = match settings.overflow {
            Overflow::Disconnect => settings.outbox_lines,
            _ => 2 * settings.outbox_lines,
        };
        assert!(
            lines < full + most,
            "client {} does not read, and {lines} lines wait for it",
            check.client
        );
        if settings.overflow == Overflow::Disconnect {
            let bytes = events_coming(check, watched, quiet, rests);
            assert!(
                bytes < settings.outbox_bytes + MAX_EVENT,
                "client {} does not read, and {bytes} bytes of events wait for it",
                check.client
            );
        }
    }
}

/// Bytes of the changes that it has not been told of, and should have been.
fn events_coming(check: &Check<'_>, watched: &Watched, quiet: &Quiet, rests: &[Quiet]) -> usize {
    let told: HashSet<&[u8]> = check
        .down
        .lines
        .iter()
        .filter(|line| line.written < quiet.at)
        .map(|line| &line.text[..])
        .collect();
    let entries = check.entries[..quiet.entries].iter().zip(&watched.must);
    entries
        .map(|(entry, must)| match &entry.what {
            // With the end of its input it ceases to watch, also what a late store has not answered.
            _ if (check.up.read_end).is_some_and(|end| end < check.latest(entry, rests)) => 0,
            // Nobody has an event of what the store has missed.
            What::Written(_, line) if check.record.missed.contains(line) => 0,
            What::Written(_, line) if *must && !told.contains(&line[..]) => line.len() + 1,
            _ => 0,
        })
        .sum()
}
