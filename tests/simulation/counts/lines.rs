//! The counters of lines and events.

use std::{collections::HashSet, time::Duration};

use keywire::Stats;

use super::{Range, Span, Totals, within};
use crate::{
    check::{Check, Mark},
    history::What,
    limits,
    network::Direction,
    sent::Sent,
    settings::LINE_TIMEOUT,
    walks::Walk,
    watched::Watched,
    world::Moment,
};

impl Totals<'_> {
    /// The counters of commands, errors and lines, by the lines that were handled.
    pub(super) fn check_lines(
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
        // One that was under way when the server closed is a command, and refused.
        let is_walk =
            |check: &Check<'_>, line: usize| matches!(check.sent[line], Sent::Walk { .. });
        let refused = |check: &Check<'_>, line: usize| check.closing.contains(&line);
        let (least, _) = self.count(spans, |check, line| {
            is_walk(check, line) && !refused(check, line)
        });
        let (_, most) = self.count(spans, is_walk);
        within("walks", stats.walks, (least, most));
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
            let refused = refused && !check.failed_watches.contains(&line);
            matches!(check.sent[line], Sent::Watch(..)) && refused
        };
        let told = self.count(spans, full).0;
        let untold = self.count(spans, |check, line| {
            let unknown = !check.clean && !check.refused.contains(&line);
            matches!(check.sent[line], Sent::Watch(..)) && (unknown || full(check, line))
        });
        within("full_watches", stats.full_watches, (told, untold.1));
        let failed = self.record.entries[..entries].iter();
        let is_read = |what: &What| matches!(what, What::Read(_) | What::Written(..));
        let failed = failed.filter(|entry| entry.is_command() && !is_read(&entry.what));
        let failed = failed.count() as u64;
        // The last line may be a walk that is under way.
        let ended = spans.iter().map(|span| (span.0.saturating_sub(1), span.1));
        let ended: Vec<Span> = ended.collect();
        let walks = self.count(&ended, |check, line| match check.sent[line] {
            Sent::Walk { number, .. } => {
                let pages = check.walk_of(number).is_some_and(Walk::has_failed_page);
                let mut reads = check.reads_of(number).iter();
                let read = reads.all(|place| is_read(&check.entries[*place].what));
                pages || !read || check.closing.contains(&line)
            }
            _ => false,
        });
        let (sure, known) = self.count(spans, |check, line| match check.sent[line] {
            Sent::Wrong(_) => true,
            Sent::Watch(..) => check.refused.contains(&line),
            Sent::Walk { .. } => false,
            _ => check.closing.contains(&line),
        });
        let (_, unknown) = self.count(spans, |check, line| match check.sent[line] {
            Sent::Wrong(_) | Sent::Blank | Sent::Unheard => false,
            _ if check.clean || check.refused.contains(&line) => false,
            Sent::Watch(..) => true,
            Sent::Walk { number, .. } => {
                // Its first page failed, or it was refused when the server closed.
                let walk = check.walk_of(number);
                let is_over = |walk: &Walk| walk.is_complete() || walk.has_failed_page();
                let mut reads = check.reads_of(number).iter();
                let read = reads.all(|place| is_read(&check.entries[*place].what));
                read && !walk.is_some_and(is_over)
            }
            _ => self.is_late(check, line),
        });
        let least = failed + walks.0 + sure + halves.0 + parted.0;
        let most = failed + walks.1 + known + unknown + halves.1 + parted.1;
        within("errors", stats.errors, (least, most));
        let most = self.lines(spans) + halves.1 + parted.1;
        within("lines_queued", stats.lines_queued, (0, most));
    }

    /// Those who were told why they have to go: surely, and at the most.
    pub(super) fn parted(&self) -> Range {
        let told = |check: &Check<'_>| {
            let slow = limits::slow_line(check.down).is_some();
            check.admission.turned_away
                || check.admission.late
                || slow
                || limits::was_idle(check.down)
        };
        let told = self.sum(|check| u64::from(told(check)));
        (told, told + self.doubtful())
    }

    /// Those who were told that the server closes, in no answer to a line.
    pub(super) fn told_of_the_end(&self) -> Range {
        let told = |check: &Check<'_>| limits::is_told_of_the_end(check.down);
        let may = |check: &Check<'_>| told(check) || !check.clean && check.knows_control_lines();
        (
            self.sum(|check| u64::from(told(check))),
            self.sum(|check| u64::from(may(check))),
        )
    }

    /// Those who may have been told so, and were not there any more.
    pub(super) fn doubtful(&self) -> u64 {
        let strict = self.settings.is_strict();
        let doubtful = |check: &Check<'_>| !check.clean && (strict || !check.admission.sure);
        self.sum(|check| u64::from(doubtful(check)))
    }

    /// Those who were turned away for want of a place.
    pub(super) fn turned_away(&self) -> Range {
        let told = self.sum(|check| u64::from(check.admission.turned_away));
        match self.settings.max_clients {
            usize::MAX => (0, 0),
            _ => (told, told + self.doubtful()),
        }
    }

    /// Counters of what these runs have nothing of.
    pub(super) fn check_others(&self, stats: &Stats, last: bool) {
        assert_eq!((stats.full_addresses, stats.long_replies), (0, 0));
        let ended = |by: fn(&Direction) -> bool, may: bool| {
            let told = self.sum(|check| u64::from(by(check.down)));
            let most = told + if may { self.doubtful() } else { 0 };
            (if last { told } else { 0 }, most)
        };
        let may_be_slow = self.settings.line_timeout < LINE_TIMEOUT;
        let slow = ended(|down| limits::slow_line(down).is_some(), may_be_slow);
        within("slow_lines", stats.slow_lines, slow);
        let may_be_idle = self.settings.idle < Duration::MAX;
        within("idle", stats.idle, ended(limits::was_idle, may_be_idle));
        assert!(
            stats.throttled == 0 || self.settings.is_throttled(),
            "{stats:?}"
        );
        let most = self.settings.max_clients as u64;
        assert!(stats.active <= most, "{stats:?}: {most} clients may come");
    }

    /// Lines that may answer what may have been handled.
    pub(super) fn lines(&self, spans: &[Span]) -> u64 {
        let lines = |check: &Check<'_>, sent: &Sent| match sent {
            Sent::Command(number) => match check.places.get(number) {
                Some(&place) => match &self.record.entries[place].what {
                    What::Read(lines) => lines.len() as u64,
                    What::Written(..) => 0,
                    What::Failed | What::Unconfirmed(_) | What::Full(_) => 1,
                },
                None => 1,
            },
            Sent::Walk { number, .. } => {
                let reads = check.reads_of(*number).iter();
                let lines = reads.map(|place| check.lines_of_read(*number, *place).len());
                1 + lines.sum::<usize>() as u64
            }
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
    pub(super) fn is_late(&self, check: &Check<'_>, line: usize) -> bool {
        let read = check.up.lines[line].read;
        self.settings.is_throttled() || read.is_none_or(|read| read > self.settings.stopped)
    }

    /// Replies to Gets before a place that were dropped: those that surely were, and those that did
    /// not come.
    pub(super) fn dropped(&self, entries: usize) -> Range {
        let lost = |check: &Check<'_>| {
            let before = check.losses.iter().filter(|(place, _)| *place < entries);
            before.map(|(_, lines)| lines).sum()
        };
        // The reads of walks that follow may have been counted.
        let entries = self.record.with_walks(entries);
        let absent = |check: &Check<'_>| {
            let came: HashSet<usize> = check.places_of_lines.iter().copied().flatten().collect();
            let absent = |place: &usize| *place < entries && !came.contains(place);
            let gets = check.places.values().filter(|place| absent(place));
            let gets = gets.map(|&place| match &self.record.entries[place].what {
                What::Read(lines) => lines.len() as u64,
                _ => 0,
            });
            let walks = check.sent.iter().filter_map(|sent| match sent {
                Sent::Walk { number, .. } => Some(*number),
                _ => None,
            });
            let reads = walks.flat_map(|number| {
                let reads = check.reads_of(number).iter().filter(|place| absent(place));
                reads.map(move |&place| check.lines_of_read(number, place).len() as u64)
            });
            gets.sum::<u64>() + reads.sum::<u64>()
        };
        (self.sum(lost), self.sum(absent))
    }

    pub(super) fn told(&self, entries: usize) -> u64 {
        self.sum(|check| {
            let told = check.marks.iter();
            told.filter(|mark| matches!(mark, Mark::Told(place) if *place < entries))
                .count() as u64
        })
    }

    pub(super) fn may_tell(&self, entries: usize) -> u64 {
        let flags = self.watched.iter().map(|watched| &watched.may);
        flags.map(|may| Watched::count(may, entries)).sum()
    }

    pub(super) fn missed_before(&self, moment: Moment) -> u64 {
        self.sum(|check| {
            let lines = check.down.lines.iter();
            let lines = lines.take_while(|line| line.written < moment);
            let missed = lines.filter_map(|line| line.text.strip_prefix(b":missed:"));
            let number = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<u64>().unwrap();
            missed.map(number).sum()
        })
    }
}
