//! The counters of clients and of what they watch.

use std::collections::HashSet;

use keywire::Stats;

use super::{Span, Totals, within};
use crate::{check::Check, sent::Sent, world::Moment};

impl Totals<'_> {
    /// Whether it surely was a client, if it came.
    pub(super) fn had_place(&self, check: &Check<'_>) -> bool {
        self.settings.max_clients == usize::MAX || check.admission.sure
    }

    /// Who is there, and who has gone.
    pub(super) fn check_clients(
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
        // One whose commands still wait for a long turn is there until they are applied.
        let gone = count(&|check| {
            let left = check.down.left.is_some_and(|left| left < read);
            let is_done = check.down.closed.is_some() && !has_more(check);
            is_done && left && self.had_place(check)
        });
        assert!(stats.dropped >= gone, "{stats:?}: {gone} clients are gone");
        let went = count(&|check| check.down.over.is_some_and(|over| over < written));
        assert!(stats.dropped <= went, "{stats:?}: {went} clients are gone");
    }

    /// What is watched by whom when so many of their lines were handled.
    pub(super) fn check_watching(
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
}
