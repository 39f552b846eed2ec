//! Whether every change of what a client watched was told or counted, each in its place.

use std::collections::{HashMap, HashSet};

use crate::{
    check::{Check, Mark, Quiet},
    history::{Entry, What},
    sent::Sent,
    world::Moment,
};

/// Where a change stands to what a client watched.
pub(crate) struct Watched {
    /// It may have been watched, and it surely was.
    pub(crate) may: Vec<bool>,
    pub(crate) must: Vec<bool>,
}

impl Watched {
    /// Changes before this place.
    pub(crate) fn count(flags: &[bool], end: usize) -> u64 {
        flags[..end].iter().filter(|&&flag| flag).count() as u64
    }

    /// By the client's own commands, before and after which a watch began or ended.
    pub(crate) fn of(check: &Check<'_>, quiet: &[Quiet]) -> Self {
        let place = |sent: &Sent| match sent {
            Sent::Command(number) => check.places.get(number).copied(),
            _ => None,
        };
        let mut before = Vec::new();
        let mut last = None;
        for sent in &check.sent {
            before.push(last);
            last = place(sent).or(last);
        }
        let mut after = vec![usize::MAX; check.sent.len()];
        let mut next = usize::MAX;
        for (index, sent) in check.sent.iter().enumerate().rev() {
            after[index] = next;
            next = place(sent).unwrap_or(next);
        }
        let answered = |index: usize| {
            let answer = check.answers.iter().position(|&line| line == Some(index));
            answer.map(|answer| check.down.lines[answer].written)
        };
        let turns: Vec<_> = check
            .sent
            .iter()
            .enumerate()
            .filter(|(index, _)| !check.refused.contains(index))
            .filter_map(|(index, sent)| {
                let (topic, begins) = match sent {
                    Sent::Watch(name, prefix) => ((&name[..], *prefix), true),
                    Sent::Unwatch(name, prefix) => ((&name[..], *prefix), false),
                    _ => return None,
                };
                let read = check.up.lines[index].read?;
                Some((index, topic, begins, read, answered(index)))
            })
            .collect();
        let entries = check.entries.len();
        let mut watched = Watched {
            may: vec![false; entries],
            must: vec![false; entries],
        };
        for (place, entry) in check.entries.iter().enumerate() {
            let What::Written(key, _) = &entry.what else {
                continue;
            };
            let latest = check.latest(entry, quiet);
            let mut active: HashMap<(&[u8], bool), (bool, bool)> = HashMap::new();
            for &(index, topic, begins, read, answered) in &turns {
                let fits = match topic.1 {
                    true => key.starts_with(topic.0),
                    false => key == topic.0,
                };
                if !fits {
                    continue;
                }
                let (may, must) = active.entry(topic).or_default();
                let surely_before = after[index] <= place && index < check.next
                    || answered.is_some_and(|answered| answered < entry.at);
                // Where the store is late, its answers have an order only where that was seen.
                let own = before[index];
                let is_later = match check.settings.late {
                    None => own < Some(place),
                    Some(_) => own.is_none_or(|own| check.entries[own].answered < latest),
                };
                let maybe_before = is_later && read < latest;
                if begins {
                    *may |= maybe_before;
                    *must |= surely_before;
                } else {
                    *may &= !surely_before;
                    *must &= !maybe_before;
                }
            }
            watched.may[place] = active.values().any(|(may, _)| *may);
            watched.must[place] = active.values().any(|(_, must)| *must);
        }
        watched
    }
}

/// Changes that were not heard of, by how many stand before each place of the history.
struct Unheard {
    least: Vec<u64>,
    most: Vec<u64>,
}

impl Unheard {
    fn of(watched: &Watched, marks: &[Mark]) -> Self {
        let mut told = vec![false; watched.may.len()];
        for mark in marks {
            if let Mark::Told(place) = mark {
                told[*place] = true;
            }
        }
        let sums = |flags: &[bool]| {
            let mut sum = 0;
            let mut sums = vec![0];
            for (flag, told) in flags.iter().zip(&told) {
                sum += u64::from(*flag && !told);
                sums.push(sum);
            }
            sums
        };
        Unheard {
            least: sums(&watched.must),
            most: sums(&watched.may),
        }
    }
}

/// Every change of what was watched was told or is counted as missed, where it stands: before what
/// comes later, and not before it was made. Nothing else was told.
pub(crate) fn check_watched(check: &Check<'_>, watched: &Watched, quiet: &[Quiet]) {
    if check.settings.late.is_some() {
        return check_late(check, watched, quiet);
    }
    let client = check.client;
    let unheard = Unheard::of(watched, &check.marks);
    let mut missed = 0;
    // The history up to here has been told of, at least.
    let mut seen = 0;
    for (index, mark) in check.marks.iter().enumerate() {
        match *mark {
            Mark::Told(place) => {
                let entry = &check.entries[place];
                assert!(watched.may[place], "client {client} was told of {entry:?}");
                let counted = unheard.least[place] <= missed && missed <= unheard.most[place];
                assert!(
                    counted,
                    "client {client} missed {missed} before {entry:?}, not {} to {}",
                    unheard.least[place], unheard.most[place]
                );
                seen = place + 1;
            }
            Mark::Answered(place) => seen = place + 1,
            Mark::Settled(end) => {
                seen = seen.max(end);
                assert!(
                    unheard.least[end] <= missed && missed <= unheard.most[end],
                    "client {client} was told of {missed} at rest, not {} to {}",
                    unheard.least[end],
                    unheard.most[end]
                );
            }
            Mark::Missed(more) => {
                missed += more;
                let next = check.marks[index + 1..]
                    .iter()
                    .find_map(|mark| match *mark {
                        Mark::Told(place) | Mark::Answered(place) | Mark::Settled(place) => {
                            Some(place)
                        }
                        Mark::Missed(_) => None,
                    });
                let next = next.unwrap_or(check.entries.len());
                assert!(
                    unheard.least[seen] <= missed && missed <= unheard.most[next],
                    "client {client} missed {missed} by then, not {} to {}",
                    unheard.least[seen],
                    unheard.most[next]
                );
            }
        }
    }
    if check.clean {
        // With the end of its input it ceases to watch.
        let end = check.places.values().max().map_or(0, |last| last + 1);
        let end = end.max(seen);
        assert!(
            unheard.least[end] <= missed,
            "client {client} missed {missed} in all, not {}",
            unheard.least[end],
        );
    }
}

/// The same, where the store is late. What was not told has no place among what was, but a time.
fn check_late(check: &Check<'_>, watched: &Watched, quiet: &[Quiet]) {
    let client = check.client;
    let told: HashSet<usize> = check.marks.iter().filter_map(Mark::told).collect();
    let unheard = |flags: &[bool], is: &dyn Fn(&Entry) -> bool| {
        let entries = check.entries.iter().enumerate();
        let entries =
            entries.filter(|(place, entry)| flags[*place] && !told.contains(place) && is(entry));
        entries.count() as u64
    };
    let most = |at: Moment| unheard(&watched.may, &|entry| entry.answered < at);
    let mut missed = 0;
    // Up to here, it may have missed any.
    let mut excused = Moment::default();
    for (mark, at) in check.marks.iter().zip(&check.mark_times) {
        let least = |at: Moment| {
            let is = |entry: &Entry| entry.answered > excused && check.latest(entry, quiet) < at;
            unheard(&watched.must, &is)
        };
        let (least, most) = match mark {
            Mark::Missed(0) => {
                (missed, excused) = (0, *at);
                continue;
            }
            Mark::Missed(more) => {
                missed += more;
                (0, most(*at))
            }
            Mark::Told(place) => {
                let entry = &check.entries[*place];
                assert!(watched.may[*place], "client {client} was told of {entry:?}");
                // It may have waited for the client.
                (least(entry.answered), most(*at))
            }
            Mark::Settled(_) => (least(*at), most(*at)),
            Mark::Answered(_) => continue,
        };
        assert!(
            least <= missed && missed <= most,
            "client {client} missed {missed} by {mark:?} {at:?}, not {least} to {most}"
        );
    }
    if let (true, Some(end)) = (check.clean, check.up.read_end) {
        // With the end of its input it ceases to watch.
        let is = |entry: &Entry| entry.answered > excused && check.latest(entry, quiet) < end;
        let least = unheard(&watched.must, &is);
        assert!(
            least <= missed,
            "client {client} missed {missed}, not {least}"
        );
    }
}
