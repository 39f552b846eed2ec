//! Whether the server's counters are those of the history: exactly where that tells them, and
//! within what can be known otherwise.

use std::{collections::HashSet, time::Duration};

use keywire::{Stats, store::StoreSize};

use crate::{
    LINE_TIME, Settings,
    check::{Check, Mark, Seen},
    history::{Kind, Limit, Record, What},
    limits,
    network::Way,
    sent::Sent,
    watched::Watched,
    world::Moment,
};

/// What all clients together have done and seen.
pub(crate) struct Ledger<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) checks: &'a [Check<'a>],
    pub(crate) watched: &'a [Watched],
    pub(crate) record: &'a Record,
    /// Connections that were handed to the server, and times that its door failed.
    pub(crate) handed: u64,
    pub(crate) door_errors: u64,
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
    stats.gets + stats.puts + stats.updates + stats.deletes
}

/// What has to be true of any counters.
pub(crate) fn add_up(stats: &Stats) {
    let others = stats.syncs + stats.stats + stats.watches + stats.unwatches + stats.auths;
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

impl Ledger<'_> {
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

    /// The counters of commands, errors and lines, by the lines that were handled.
    fn check_lines(
        &self,
        stats: &Stats,
        spans: &[Span],
        entries: usize,
        halves: Range,
        parted: Range,
    ) {
        let check = |name, number, is: fn(&Sent) -> bool| {
            // What is refused because the server closes is no command.
            let range = self.count(spans, |check, line| {
                is(&check.sent[line]) && !check.closing.contains(&line)
            });
            within(name, number, range);
        };
        check("syncs", stats.syncs, |sent| matches!(sent, Sent::Sync(_)));
        check("stats", stats.stats, |sent| matches!(sent, Sent::Stats));
        check("watches", stats.watches, |sent| {
            matches!(sent, Sent::Watch(..))
        });
        check("unwatches", stats.unwatches, |sent| {
            matches!(sent, Sent::Unwatch(..))
        });
        check("auths", stats.auths, |sent| matches!(sent, Sent::Auth));
        check("long_lines", stats.long_lines, |sent| {
            matches!(sent, Sent::Wrong("too-long"))
        });
        let (least, most) = self.count(spans, |check, line| {
            let wrong = matches!(check.sent[line], Sent::Wrong("unauthorized"));
            wrong && !check.closing.contains(&line)
        });
        // Some had no time for more, or sent half a line.
        let most = match self.settings.secret {
            true => most + halves.1 + parted.1,
            false => most,
        };
        within("unauthorized", stats.unauthorized, (least, most));
        let full = |check: &Check<'_>, line: usize| {
            let refused = check.refused.contains(&line) && !check.closing.contains(&line);
            matches!(check.sent[line], Sent::Watch(..)) && refused
        };
        let told = self.count(spans, full).0;
        let untold = self.count(spans, |check, line| {
            let unknown = !check.clean && !check.refused.contains(&line);
            matches!(check.sent[line], Sent::Watch(..)) && (unknown || full(check, line))
        });
        within("full_watches", stats.full_watches, (told, untold.1));
        let failed = self.record.entries[..entries].iter();
        let failed = failed.filter(|entry| matches!(entry.what, What::Failed | What::Full(_)));
        let failed = failed.count() as u64;
        let (sure, known) = self.count(spans, |check, line| match check.sent[line] {
            Sent::Wrong(_) => true,
            Sent::Watch(..) => check.refused.contains(&line),
            _ => check.closing.contains(&line),
        });
        let (_, unknown) = self.count(spans, |check, line| match check.sent[line] {
            Sent::Wrong(_) | Sent::Blank | Sent::Unheard => false,
            _ if check.clean || check.refused.contains(&line) => false,
            Sent::Watch(..) => true,
            _ => self.is_late(check, line),
        });
        let least = failed + sure + halves.0 + parted.0;
        let most = failed + known + unknown + halves.1 + parted.1;
        within("errors", stats.errors, (least, most));
        let most = self.lines(spans) + halves.1 + parted.1;
        within("lines_queued", stats.lines_queued, (0, most));
    }

    /// Those who were told why they have to go: surely, and at the most.
    fn parted(&self) -> Range {
        let told = |check: &Check<'_>| {
            let slow = limits::slow_line(check.down).is_some();
            check.entry.turned_away || check.entry.late || slow || limits::was_idle(check.down)
        };
        let told = self.sum(|check| u64::from(told(check)));
        (told, told + self.doubtful())
    }

    /// Those who were told that the server closes, in no answer to a line.
    fn told_of_the_end(&self) -> Range {
        let told = |check: &Check<'_>| limits::is_told_of_the_end(check.down);
        let may = |check: &Check<'_>| told(check) || !check.clean && check.knows_control_lines();
        (
            self.sum(|check| u64::from(told(check))),
            self.sum(|check| u64::from(may(check))),
        )
    }

    /// Those who may have been told so, and were not there any more.
    fn doubtful(&self) -> u64 {
        let strict = self.settings.is_strict();
        let doubtful = |check: &Check<'_>| !check.clean && (strict || !check.entry.sure);
        self.sum(|check| u64::from(doubtful(check)))
    }

    /// Those who were turned away for want of a place.
    fn turned_away(&self) -> Range {
        let told = self.sum(|check| u64::from(check.entry.turned_away));
        match self.settings.max_clients {
            usize::MAX => (0, 0),
            _ => (told, told + self.doubtful()),
        }
    }

    /// Counters of what these runs have nothing of.
    fn check_others(&self, stats: &Stats, last: bool) {
        assert_eq!((stats.full_addresses, stats.long_replies), (0, 0));
        let ended = |by: fn(&Way) -> bool, may: bool| {
            let told = self.sum(|check| u64::from(by(check.down)));
            let most = told + if may { self.doubtful() } else { 0 };
            (if last { told } else { 0 }, most)
        };
        let may_be_slow = self.settings.line_time < LINE_TIME;
        let slow = ended(|down| limits::slow_line(down).is_some(), may_be_slow);
        within("slow_lines", stats.slow_lines, slow);
        let may_be_idle = self.settings.idle < Duration::MAX;
        within("idle", stats.idle, ended(limits::was_idle, may_be_idle));
        assert!(
            stats.throttled == 0 || self.settings.is_paced(),
            "{stats:?}"
        );
        let most = self.settings.max_clients as u64;
        assert!(stats.active <= most, "{stats:?}: {most} clients may come");
    }

    /// Lines that may answer what may have been handled.
    fn lines(&self, spans: &[Span]) -> u64 {
        let lines = |check: &Check<'_>, sent: &Sent| match sent {
            Sent::Command(number) => match check.places.get(number) {
                Some(&place) => match &self.record.entries[place].what {
                    What::Read(lines) => lines.len() as u64,
                    What::Written(..) => 0,
                    What::Failed | What::Full(_) => 1,
                },
                None => 1,
            },
            Sent::Blank | Sent::Unheard => 0,
            _ => 1,
        };
        let pairs = self.checks.iter().zip(spans);
        pairs
            .flat_map(|(check, span)| check.sent[..span.1].iter().map(move |sent| (check, sent)))
            .map(|(check, sent)| lines(check, sent))
            .sum()
    }

    /// Whether a line may have come too late for anything but a refusal.
    fn is_late(&self, check: &Check<'_>, line: usize) -> bool {
        let read = check.up.lines[line].read;
        self.settings.is_paced() || read.is_none_or(|read| read > self.settings.stopped)
    }

    /// Replies to Gets before a place that were dropped: those that surely were, and those that did
    /// not come.
    fn dropped(&self, entries: usize) -> Range {
        let lost = |check: &Check<'_>| {
            let before = check.losses.iter().filter(|(place, _)| *place < entries);
            before.map(|(_, lines)| lines).sum()
        };
        let absent = |check: &Check<'_>| {
            let came: HashSet<usize> = check.answers.iter().copied().flatten().collect();
            let reads = check.sent.iter().enumerate();
            let reads = reads.filter_map(|(index, sent)| match sent {
                Sent::Command(number) if !came.contains(&index) => check.places.get(number),
                _ => None,
            });
            let lines = reads.filter(|place| **place < entries).map(|&place| {
                match &self.record.entries[place].what {
                    What::Read(lines) => lines.len() as u64,
                    _ => 0,
                }
            });
            lines.sum()
        };
        (self.sum(lost), self.sum(absent))
    }

    fn told(&self, entries: usize) -> u64 {
        self.sum(|check| {
            let told = check.marks.iter();
            told.filter(|mark| matches!(mark, Mark::Told(place) if *place < entries))
                .count() as u64
        })
    }

    fn may_tell(&self, entries: usize) -> u64 {
        let flags = self.watched.iter().map(|watched| &watched.may);
        flags.map(|may| Watched::count(may, entries)).sum()
    }

    fn missed_before(&self, moment: Moment) -> u64 {
        self.sum(|check| {
            let lines = check.down.lines.iter();
            let lines = lines.take_while(|line| line.written < moment);
            let missed = lines.filter_map(|line| line.text.strip_prefix(b":missed:"));
            let number = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<u64>().unwrap();
            missed.map(number).sum()
        })
    }

    fn check_operations(&self, stats: &Stats, entries: usize) {
        let of = |kind: Kind| {
            let entries = self.record.entries[..entries].iter();
            entries.filter(|entry| entry.kind == kind).count() as u64
        };
        assert_eq!(
            (stats.gets, stats.puts, stats.updates, stats.deletes),
            (
                of(Kind::Get),
                of(Kind::Put),
                of(Kind::Update),
                of(Kind::Delete)
            ),
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
        let last = entries
            .checked_sub(1)
            .map(|last| &self.record.entries[last]);
        let held = last.map_or(StoreSize::default(), |last| last.held);
        assert_eq!(
            (stats.keys, stats.values, stats.bytes, stats.size),
            (
                held.keys,
                held.values,
                held.bytes,
                held.bytes + 64 * held.keys + 8 * held.values
            ),
            "after {entries} commands"
        );
        let whims = self.settings.whims;
        assert!(
            stats.size <= whims.max_store,
            "{stats:?}: more than {whims:?}"
        );
    }

    /// A reply to `Stats` against the history up to it.
    pub(crate) fn check_seen(&self, own: &Check<'_>, seen: &Seen) {
        let stats = &seen.stats;
        add_up(stats);
        let entries = operations(stats) as usize;
        let all = &self.record.entries;
        assert!(entries <= all.len());
        let read = own.up.lines[seen.asked].read.expect("it was read");
        let written = own.down.lines[seen.answer].begun;
        // Its place in the history.
        assert!(entries == 0 || all[entries - 1].answered < written);
        assert!(all.get(entries).is_none_or(|entry| entry.at > read));
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
        within("accept_errors", stats.accept_errors, (0, self.door_errors));
        let stopped = written > self.settings.stopped;
        let full = stats.full_clients;
        within("full_clients", full, (0, self.turned_away().1));
        assert!(stats.refused == full || stopped, "refused before the end");
    }

    /// Whether it surely was a client, if it came.
    fn had_place(&self, check: &Check<'_>) -> bool {
        self.settings.max_clients == usize::MAX || check.entry.sure
    }

    /// Who is there, and who has gone.
    fn check_clients(
        &self,
        own: &Check<'_>,
        stats: &Stats,
        entries: usize,
        (read, written): (Moment, Moment),
    ) {
        let count = |is: &dyn Fn(&Check<'_>) -> bool| self.sum(|check| u64::from(is(check)));
        let came = |check: &Check<'_>| {
            let first = check.up.reads.first();
            self.had_place(check) && first.is_some_and(|first| first.at < read)
        };
        let joined = count(&came);
        within("active + dropped", stats.active + stats.dropped, {
            (joined, self.handed)
        });
        let has_more = |check: &Check<'_>| check.places.values().any(|place| *place >= entries);
        let there = count(&|check| check.client == own.client || came(check) && has_more(check));
        assert!(
            stats.active >= there,
            "{stats:?}: {there} clients are there"
        );
        let gone = count(&|check| {
            let left = check.down.left.is_some_and(|left| left < read);
            check.down.closed.is_some() && left && self.had_place(check)
        });
        assert!(stats.dropped >= gone, "{stats:?}: {gone} clients are gone");
        let went = count(&|check| check.down.over.is_some_and(|over| over < written));
        assert!(stats.dropped <= went, "{stats:?}: {went} clients are gone");
    }

    /// What is watched by whom when so many of their lines were handled.
    fn check_watching(
        &self,
        own: &Check<'_>,
        stats: &Stats,
        spans: &[Span],
        (_, written): (Moment, Moment),
    ) {
        let (mut least, mut most) = (0, 0);
        for (check, span) in self.checks.iter().zip(spans) {
            let mut topics = HashSet::new();
            let (mut few, mut many) = (usize::MAX, 0);
            for index in 0..=span.1 {
                if index >= span.0 {
                    few = few.min(topics.len());
                    many = many.max(topics.len());
                }
                match check.sent.get(index) {
                    _ if check.refused.contains(&index) => {}
                    Some(Sent::Watch(name, prefix)) => {
                        topics.insert((name, *prefix));
                    }
                    Some(Sent::Unwatch(name, prefix)) => {
                        topics.remove(&(name, *prefix));
                    }
                    _ => {}
                }
            }
            // At the end of its input, or when the server closes, it ceases to watch.
            let ended = check.up.read_end.is_some_and(|end| end < written);
            let ended = ended || written > self.settings.stopped;
            let few = few.min(many);
            let strict = self.settings.is_strict();
            let sure = check.client == own.client || check.clean && !ended && !strict;
            least += if sure { few as u64 } else { 0 };
            most += many as u64;
        }
        within("watching", stats.watching, (least, most));
    }

    /// What the handle says after the end.
    pub(crate) fn check_last(&self, stats: &Stats) {
        add_up(stats);
        assert_eq!((stats.active, stats.watching), (0, 0));
        assert_eq!(stats.accept_errors, self.door_errors);
        assert_eq!(stats.dropped + stats.refused, self.handed, "{stats:?}");
        let joined = |check: &Check<'_>| self.had_place(check) && !check.up.reads.is_empty();
        let joined = self.sum(|check| u64::from(joined(check)));
        assert!(stats.dropped >= joined, "{stats:?}: {joined} had come in");
        let stopped = self.settings.stopped;
        let patient = self.settings.is_patient();
        let entries = match patient {
            true => self.record.entries.len(),
            // The last round may not have come to its end.
            false => operations(stats) as usize,
        };
        self.check_operations(stats, entries);
        let spans = self.checks.iter().map(|check| {
            let may_wait = self.settings.is_strict() || self.settings.is_paced();
            let handled = match patient {
                true if !may_wait => {
                    let read = check.up.read_before(stopped);
                    check.next.max(check.entry.heard(read, Moment::NEVER))
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
        let open = match self.checks.iter().all(clean) {
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

fn is_event(text: &[u8]) -> bool {
    [&b":put:"[..], b":update:", b":delete:"]
        .iter()
        .any(|word| text.starts_with(word))
}
