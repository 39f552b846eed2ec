//! Whether a walk behind the watch of the same prefix, and all events behind that, give what the
//! store holds.

use std::collections::BTreeSet;

use keywire::protocol::{Reply, Topic, Write};

use crate::{
    check::{Check, Quiet},
    history::{Kind, What, base, tag_of_write},
    lists::Lists,
    sent::Sent,
    walks::Page,
};

/// What one client knows of the keys of a prefix.
struct Mirror<'a> {
    check: &'a Check<'a>,
    prefix: &'a [u8],
    lists: Lists,
    /// The history has been followed up to here.
    place: usize,
    /// Keys of which the walk has come.
    walked: BTreeSet<Vec<u8>>,
}

impl Mirror<'_> {
    /// Comes to a place in the history. What was applied and not confirmed nobody was told of.
    fn come_to(&mut self, place: usize) {
        for entry in &self.check.entries[self.place..place.max(self.place)] {
            if let What::Unconfirmed(Some(line)) = &entry.what {
                self.apply(line);
            }
        }
        self.place = self.place.max(place);
    }

    fn apply(&mut self, line: &[u8]) {
        let Ok(Reply::Change(write)) = Reply::parse(line) else {
            panic!("a change");
        };
        if base(write.key()).starts_with(self.prefix) {
            self.lists.write(write);
        }
    }

    /// One of the lines of a key. The first takes the place of whatever was known of it.
    fn walk(&mut self, key: &[u8], value: &[u8]) {
        let key = base(key);
        let value = value.split(|&byte| byte == b'@').next().unwrap_or(value);
        if self.walked.insert(key.to_vec()) {
            self.lists.write(Write::Delete { key });
        }
        self.lists.write(Write::Put { key, value });
    }

    /// Keys that the walk did not name because of a removal that stands at or behind this place in the
    /// history, or has none. A page shows the store as it is when asked, so it leaves such a key out as soon
    /// as the removal is applied, while the event comes with the answer. Nothing is promised of such a key
    /// until then: it was not there during all of the walk. A key that was named is read behind that event.
    fn removed_ahead<'b>(
        &'b self,
        pages: &'b [Page],
        entries: usize,
    ) -> impl Iterator<Item = &'b [u8]> {
        let submitted = self.check.record.batches.iter();
        let submitted = submitted.flat_map(|batch| &batch.entries);
        let removals = submitted.filter(move |entry| {
            let applied = matches!(entry.what, What::Written(..) | What::Unconfirmed(Some(_)));
            let place = self.check.by_number.get(&entry.number);
            let is_ahead = place.is_none_or(|place| *place >= entries);
            matches!(entry.kind, Kind::Delete | Kind::Remove) && applied && is_ahead
        });
        let left_out = removals.filter(|entry| {
            let page = pages.iter().rfind(|page| page.behind() < &entry.key[..]);
            page.is_some_and(|page| entry.at < page.asked && !page.names.contains(&entry.key))
        });
        left_out.map(|entry| &entry.key[..])
    }

    /// Compares what was known when the history was followed up to there.
    fn compare(&self, mut lists: Lists, pages: &[Page], entries: usize) {
        let mut held = Lists::default();
        for entry in &self.check.entries[..entries] {
            if let What::Written(_, line) | What::Unconfirmed(Some(line)) = &entry.what
                && let Ok(Reply::Change(write)) = Reply::parse(line)
                && base(write.key()).starts_with(self.prefix)
            {
                held.write(write);
            }
        }
        for key in self.removed_ahead(pages, entries) {
            lists.write(Write::Delete { key });
            held.write(Write::Delete { key });
        }
        assert_eq!(
            lists,
            held,
            "client {}: what it knows of {:?}, and what there is",
            self.check.client,
            String::from_utf8_lossy(self.prefix)
        );
    }
}

/// Follows each watch of a prefix that has a walk behind it. Says how many there were.
pub(crate) fn check_replay(check: &Check<'_>, quiet: &[Quiet]) -> usize {
    let mut followed = 0;
    for (index, line) in check.down.lines.iter().enumerate() {
        if let Ok(Reply::Watch(Topic::Prefix(prefix))) = Reply::parse(&line.text) {
            followed += usize::from(follow(check, index, prefix, quiet).is_some());
        }
    }
    followed
}

fn follow(check: &Check<'_>, from: usize, prefix: &[u8], quiet: &[Quiet]) -> Option<()> {
    let watch = check.answers[from]?;
    let walk = check.sent[watch..].iter().position(
        |sent| matches!(sent, Sent::Walk { prefix: own, counts: false, .. } if *own == prefix),
    );
    let walk = watch + walk?;
    let is_end = |sent: &Sent| matches!(sent, Sent::Unwatch(own, true) if *own == prefix);
    let unwatch = check.sent[watch..].iter().position(is_end);
    let unwatch = unwatch.map_or(usize::MAX, |end| watch + end);
    let was_ended = check.refused.contains(&walk) || unwatch < walk || check.next <= walk;
    let Sent::Walk { number, .. } = check.sent[walk] else {
        return None;
    };
    // What was dropped is not known.
    let places = check.reads_of(number);
    let dropped = |place: &usize| check.losses.iter().any(|(other, _)| other == place);
    if was_ended || places.iter().any(dropped) {
        return None;
    }
    let mut mirror = Mirror {
        check,
        prefix,
        lists: Lists::default(),
        place: 0,
        walked: BTreeSet::new(),
    };
    // What came before the walk is in it.
    let pages = check.walk_of(number).map(|walk| walk.pages.as_slice());
    let pages = pages.unwrap_or_default();
    mirror.place = pages.first()?.entries;
    // Behind the last answer before an `Unwatch`, it may have ended.
    let before = |answers: &Option<usize>| answers.is_some_and(|answers| answers < unwatch);
    let end = match unwatch {
        usize::MAX => check.answers.len(),
        _ => check.answers.iter().rposition(before)? + 1,
    };
    let lines = check.down.lines[..end].iter().enumerate().skip(from + 1);
    let mut through = false;
    // What is missed is told before the next event.
    let mut known = None;
    let mut last = from;
    for (index, line) in lines {
        let answers = check.answers[index];
        last = index;
        through |= answers.is_some_and(|answers| answers > walk);
        match Reply::parse(&line.text) {
            Ok(Reply::Change(write)) => {
                let place = check.by_tag[&tag_of_write(write)];
                if place < mirror.place {
                    continue;
                }
                mirror.come_to(place);
                mirror.place = place + 1;
                mirror.apply(&line.text);
                if through {
                    known = Some((mirror.lists.clone(), mirror.place));
                }
            }
            Ok(Reply::Value { key, value }) => {
                let place = check.places_of_lines[index].expect("a place");
                mirror.come_to(place);
                let entry = &check.entries[place];
                let is_own = !entry.is_command() && entry.tag == (check.client, number);
                if is_own && !key.contains(&b'~') {
                    mirror.walk(key, value);
                }
            }
            Ok(Reply::Missed(_)) => return None,
            _ => {}
        }
    }
    let ends = check.up.read_end;
    let line = &check.down.lines[last];
    let next = check.down.lines.get(last + 1);
    let rest = quiet.iter().rfind(|quiet| {
        let watches = unwatch == usize::MAX && ends.is_none_or(|end| end > quiet.at);
        let before = next.is_none_or(|next| quiet.at < next.begun);
        watches
            && before
            && check.walk_was_over(number, quiet.at)
            && quiet.at > line.written
            && quiet.drained
    });
    if let Some(rest) = rest {
        mirror.come_to(rest.entries);
        known = Some((mirror.lists.clone(), rest.entries));
    }
    let (lists, place) = known?;
    mirror.compare(lists, pages, place);
    Some(())
}
