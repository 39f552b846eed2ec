//! Whether the server's counters are those of the history: exactly where that tells them, and
//! within what can be known otherwise.

mod lines;

mod clients;

use keywire::{Stats, store::StoreSize};

use crate::{
    check::{Check, Seen},
    history::{Entry, Kind, Limit, Record, What, is_event},
    lists::charged,
    sent::Sent,
    settings::Settings,
    watched::Watched,
    world::Moment,
};

/// What all clients together have done and seen.
pub(crate) struct Totals<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) checks: &'a [Check<'a>],
    pub(crate) watched: &'a [Watched],
    pub(crate) record: &'a Record,
    /// Connections that were handed to the server, and times that its listener failed.
    pub(crate) handed: u64,
    pub(crate) accept_errors: u64,
}

/// At least, and at the most.
type Range = (u64, u64);

fn within(name: &str, number: u64, (least, most): Range) {
    assert!(
        least <= number && number <= most,
        "{name} is {number}, not {least} to {most}"
    );
}

pub(crate) fn operations(stats: &Stats) -> u64 {
    stats.gets + stats.puts + stats.updates + stats.deletes + stats.sets + stats.removes
}

/// What has to be true of any counters.
pub(crate) fn add_up(stats: &Stats) {
    let others = stats.syncs + stats.stats + stats.watches + stats.unwatches + stats.auths;
    let others = others + stats.walks;
    assert_eq!(stats.commands, operations(stats) + others, "{stats:?}");
}

/// None of these goes backwards.
pub(crate) fn follow(before: &Stats, after: &Stats) {
    let comes_and_goes = [
        "active", "watching", "events", "keys", "values", "bytes", "size",
    ];
    for ((name, before), (_, after)) in before.counters().zip(after.counters()) {
        assert!(
            before <= after || comes_and_goes.contains(&name),
            "{name} went from {before} to {after}"
        );
    }
}

/// How many of a client's lines were handled, at least and at the most.
type Span = (usize, usize);

impl Totals<'_> {
    /// Sums something up over all clients.
    fn sum(&self, of: impl Fn(&Check<'_>) -> u64) -> u64 {
        self.checks.iter().map(of).sum()
    }

    /// The span of each client, when so many entries of the history had been made.
    fn span(&self, check: &Check<'_>, entries: usize, (read, now): (Moment, Moment)) -> Span {
        let place = |sent: &Sent| match sent {
            Sent::Command(number) => check.places.get(number).copied(),
            _ => None,
        };
        let before = |sent: &Sent| place(sent).is_some_and(|place| place < entries);
        let least = check.sent.iter().rposition(before).map_or(0, |at| at + 1);
        let lines = check.down.lines.iter().zip(&check.answers);
        let answered = lines.take_while(|(line, _)| line.written < read);
        let answered = answered.filter_map(|(_, answers)| *answers).max();
        let least = least.max(answered.map_or(0, |at| at + 1));
        let most = check.sent.iter();
        let most = most
            .take(check.up.read_before(now))
            .position(|sent| place(sent).is_some_and(|place| place >= entries))
            .unwrap_or(check.up.read_before(now));
        (least.min(check.sent.len()), most)
    }

    fn count(&self, spans: &[Span], is: impl Fn(&Check<'_>, usize) -> bool) -> Range {
        let count = |check: &Check<'_>, end: usize| {
            let lines = (0..end.min(check.sent.len())).filter(|&line| is(check, line));
            lines.count() as u64
        };
        let pairs = || self.checks.iter().zip(spans);
        (
            pairs().map(|(check, span)| count(check, span.0)).sum(),
            pairs().map(|(check, span)| count(check, span.1)).sum(),
        )
    }

    fn check_operations(&self, stats: &Stats, entries: usize) {
        let of = |kind: Kind| {
            let entries = self.record.entries[..entries].iter();
            entries.filter(|entry| entry.kind == kind).count() as u64
        };
        assert_eq!(
            [
                (stats.gets, stats.puts, stats.updates),
                (stats.deletes, stats.sets, stats.removes)
            ],
            [
                (of(Kind::Get), of(Kind::Put), of(Kind::Update)),
                (of(Kind::Delete), of(Kind::Set), of(Kind::Remove)),
            ],
            "of {entries} commands"
        );
        let full = |limit: Limit| {
            let entries = self.record.entries[..entries].iter();
            entries
                .filter(|entry| matches!(entry.what, What::Full(by) if by == limit))
                .count() as u64
        };
        assert_eq!(
            (stats.full_store, stats.full_values),
            (full(Limit::Store), full(Limit::Values)),
            "of {entries} commands"
        );
        let unconfirmed = self.record.entries[..entries].iter();
        let unconfirmed = unconfirmed.filter(|entry| matches!(entry.what, What::Unconfirmed(_)));
        assert_eq!(stats.unconfirmed, unconfirmed.count() as u64);
        let last = entries
            .checked_sub(1)
            .map(|last| &self.record.entries[last]);
        let held = match self.settings.late {
            Some(_) => self.record.size,
            None => last.map_or(StoreSize::default(), |last| last.held),
        };
        assert_eq!(
            (stats.keys, stats.values, stats.bytes, stats.size),
            (held.keys, held.values, held.bytes, charged(held)),
            "after {entries} commands"
        );
        let faults = self.settings.faults;
        assert!(
            stats.size <= faults.room.max_store,
            "{stats:?}: more than {faults:?}"
        );
    }

    /// A reply to `Stats` against the history up to it.
    pub(crate) fn check_seen(&self, own: &Check<'_>, seen: &Seen) {
        let stats = &seen.stats;
        add_up(stats);
        if self.settings.late.is_some() {
            return self.check_seen_late(own, seen);
        }
        let all = &self.record.entries;
        let entries = self.record.after(operations(stats));
        let read = own.up.lines[seen.asked].read.expect("it was read");
        let written = own.down.lines[seen.answer].begun;
        // Its place in the history.
        assert!(entries == 0 || all[entries - 1].answered < written);
        let next = all[entries..].iter().find(|entry| entry.is_command());
        assert!(next.is_none_or(|entry| entry.at > read));
        for (index, sent) in own.sent.iter().enumerate() {
            let Sent::Command(number) = sent else {
                continue;
            };
            if let Some(&place) = own.places.get(number) {
                assert_eq!(
                    place < entries,
                    index < seen.asked,
                    "counts of another time"
                );
            }
        }
        self.check_operations(stats, entries);
        let spans = self.checks.iter().map(|check| {
            if check.client == own.client {
                // `Stats` counts itself.
                (seen.asked + 1, seen.asked + 1)
            } else {
                self.span(check, entries, (read, written))
            }
        });
        let spans: Vec<Span> = spans.collect();
        let halves = self.sum(|check| u64::from(!check.up.rest.is_empty()));
        let parted = (0, self.parted().1 + self.told_of_the_end().1);
        self.check_lines(stats, &spans, entries, (0, halves), parted);
        self.check_others(stats, false);
        let is_line = |text: &[u8]| !is_event(text) && !text.starts_with(b":missed:");
        let queued = self.sum(|check| {
            let lines = check.down.lines.iter().enumerate();
            let lines = lines.take_while(|(index, line)| match check.client == own.client {
                true => *index <= seen.answer,
                false => line.written < read,
            });
            lines.filter(|(_, line)| is_line(&line.text)).count() as u64
        });
        within("lines_queued", stats.lines_queued, (queued, u64::MAX));
        let (lost, absent) = self.dropped(entries);
        within(
            "lines_dropped",
            stats.lines_dropped,
            (lost.max(seen.lost), absent),
        );
        let may_tell = self.may_tell(entries);
        within("events", stats.events, (self.told(entries), may_tell));
        within(
            "missed",
            stats.missed,
            (self.missed_before(read), may_tell - self.told(entries)),
        );
        self.check_clients(own, stats, entries, (read, written));
        self.check_watching(own, stats, &spans, (read, written));
        let uptime = stats.uptime;
        let (since, until) = self.settings.started;
        let second = std::time::Duration::from_secs(1);
        assert!(
            uptime <= written.now - since.now
                && uptime + second > read.now.saturating_sub(until.now)
        );
        within(
            "accept_errors",
            stats.accept_errors,
            (0, self.accept_errors),
        );
        let stopped = written > self.settings.stopped;
        let full = stats.full_clients;
        within("full_clients", full, (0, self.turned_away().1));
        assert!(stats.refused == full || stopped, "refused before the end");
    }

    /// Where the store is late, the commands counted are not the first so many of the history.
    fn check_seen_late(&self, own: &Check<'_>, seen: &Seen) {
        let stats = &seen.stats;
        let read = own.up.lines[seen.asked].read.expect("it was read");
        let written = own.down.lines[seen.answer].begun;
        let range = |is: &dyn Fn(&Entry) -> bool| {
            let entries = self.record.entries.iter().filter(|entry| is(entry));
            let most = entries.clone().filter(|entry| entry.answered < written);
            // What it had been told of by then, at least.
            let own_before = |entry: &&Entry| {
                entry.tag.0 == own.client && entry.is_command() && entry.tag.1 < seen.asked
            };
            (
                entries.filter(own_before).count() as u64,
                most.count() as u64,
            )
        };
        let of = |kind: Kind| range(&|entry| entry.kind == kind);
        within("gets", stats.gets, of(Kind::Get));
        within("puts", stats.puts, of(Kind::Put));
        within("updates", stats.updates, of(Kind::Update));
        within("sets", stats.sets, of(Kind::Set));
        within("removes", stats.removes, of(Kind::Remove));
        within(
            "unconfirmed",
            stats.unconfirmed,
            range(&|entry| matches!(entry.what, What::Unconfirmed(_))),
        );
        assert!(stats.lines_dropped >= seen.lost, "{stats:?}");
        let lines = self.sum(|check| check.up.read_before(written) as u64);
        assert!(stats.commands <= lines, "{stats:?}");
        assert!(stats.active >= 1 && stats.uptime <= written.now);
        assert!(read < written);
    }

    /// What the handle says after the end.
    pub(crate) fn check_last(&self, stats: &Stats) {
        add_up(stats);
        assert_eq!((stats.active, stats.watching), (0, 0));
        assert_eq!(stats.accept_errors, self.accept_errors);
        assert_eq!(stats.dropped + stats.refused, self.handed, "{stats:?}");
        let joined = |check: &Check<'_>| self.had_place(check) && !check.up.reads.is_empty();
        let joined = self.sum(|check| u64::from(joined(check)));
        assert!(stats.dropped >= joined, "{stats:?}: {joined} had come in");
        let stopped = self.settings.stopped;
        let patient = self.settings.is_patient();
        if self.settings.late.is_some() && !patient {
            // Nobody knows which of the answers came in time.
            return;
        }
        let entries = match patient {
            true => self.record.entries.len(),
            // The last round may not have come to its end.
            false => {
                let commands = self.record.after(operations(stats));
                self.record.with_walks(commands)
            }
        };
        self.check_operations(stats, entries);
        let spans = self.checks.iter().map(|check| {
            let may_wait = self.settings.is_strict() || self.settings.is_throttled();
            let handled = match patient {
                true if !may_wait => {
                    let read = check.up.read_before(stopped);
                    check.next.max(check.admission.heard(read, Moment::NEVER))
                }
                _ => check.next,
            };
            (handled, check.up.read_before(Moment::NEVER))
        });
        let spans: Vec<Span> = spans.collect();
        let told = |check: &Check<'_>| check.answers.contains(&Some(check.sent.len()));
        let halves = (
            self.sum(|check| u64::from(told(check))),
            self.sum(|check| {
                let may = !check.clean && !check.up.rest.is_empty();
                u64::from(told(check) || may)
            }),
        );
        let (parted, closing) = (self.parted(), self.told_of_the_end());
        let parted = (parted.0 + closing.0, parted.1 + closing.1);
        self.check_lines(stats, &spans, entries, halves, parted);
        self.check_others(stats, true);
        within("full_clients", stats.full_clients, self.turned_away());
        assert!(stats.refused >= stats.full_clients, "{stats:?}");
        let lines = |is: fn(&[u8]) -> bool| {
            self.sum(|check| {
                let lines = check.down.lines.iter();
                lines.filter(|line| is(&line.text)).count() as u64
            })
        };
        let events = lines(is_event);
        let queued = lines(|text| !is_event(text) && !text.starts_with(b":missed:"));
        let missed = self.missed_before(Moment::NEVER);
        let (lost, absent) = self.dropped(entries);
        // Where every stream came to its end, nothing else was said to anyone.
        let clean = |check: &Check<'_>| {
            let settings = self.settings;
            let unlimited =
                !settings.secret && !settings.is_strict() && settings.max_clients == usize::MAX;
            check.clean || unlimited && check.up.reads.is_empty()
        };
        let open = match self.checks.iter().all(clean) && !self.settings.misses {
            true => 0,
            false => u64::MAX,
        };
        let range = |sure: u64, most: u64| (sure, most.min(sure.saturating_add(open)));
        within("lines_queued", stats.lines_queued, range(queued, u64::MAX));
        within("lines_dropped", stats.lines_dropped, range(lost, absent));
        let may_tell = self.may_tell(entries);
        within("events", stats.events, range(events, may_tell));
        let most = may_tell - events.min(may_tell);
        within("missed", stats.missed, range(missed, most));
    }
}
