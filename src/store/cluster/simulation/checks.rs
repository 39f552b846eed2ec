//! What has to hold of the answers, and in the end.

use std::collections::HashMap;

use super::{Done, Fate, Shown, Simulation};
use crate::store::cluster::{job::Outcome, resp::Reply};

impl Simulation {
    /// Checks what is answered.
    pub(super) fn collect(&mut self) {
        let mut open: Vec<_> = self.open.keys().copied().collect();
        open.sort_unstable();
        for id in open {
            let Some(job) = self.router.take(id) else {
                assert!(self.now < self.open[&id].deadline, "no answer in time");
                continue;
            };
            let expected = self.open.remove(&id).unwrap();
            let mut parts = HashMap::new();
            let mut own: Vec<(usize, u64)> = Vec::new();
            let mut shown = HashMap::new();
            for (&(key, value), &request) in expected.commands.iter().zip(&job.commands) {
                let request = request as usize;
                let it = &job.requests[request];
                let fate = match &it.outcome {
                    Outcome::Reply(_) => Fate::Done,
                    Outcome::Failed(_) => Fate::Failed,
                    Outcome::Unconfirmed(_) | Outcome::Unreplicated(_) => Fate::Unconfirmed,
                    Outcome::None => panic!("not settled"),
                };
                match fate {
                    Fate::Done => self.done.answered += 1,
                    Fate::Failed => self.done.failed += 1,
                    _ => self.done.unconfirmed += 1,
                }
                if let Some(value) = value {
                    self.writes.insert(value, fate);
                    own.push((key, value));
                    if fate == Fate::Done {
                        self.answered.insert(value, self.next_value);
                    }
                }
                let Outcome::Reply(range) = &it.outcome else {
                    continue;
                };
                let Some(Reply::Array(array)) = Reply::parse(&job.replies[range.clone()]) else {
                    panic!("no array");
                };
                let part = match it.is_write {
                    true => parts.entry(request).or_insert(array).next().unwrap(),
                    false => Reply::Array(array),
                };
                if value.is_some() {
                    continue;
                }
                let list = match (it.is_write, part) {
                    (true, Reply::Array(mut pair)) => pair.nth(1).unwrap(),
                    (_, part) => part,
                };
                let Reply::Array(list) = list else {
                    panic!("no list");
                };
                let list: Vec<u64> = list
                    .values()
                    .map(|value| String::from_utf8_lossy(value).parse().unwrap())
                    .collect();
                let mut later = expected.commands.iter().filter_map(|(_, value)| *value);
                let is_later = |value: u64| own.iter().all(|&(_, own)| own != value);
                assert!(
                    !later.any(|value| is_later(value) && list.contains(&value)),
                    "a Get shows a later write of its client"
                );
                for &(other, value) in &own {
                    let is_known = other == key && self.writes[&value] == Fate::Done;
                    assert!(
                        !is_known || list.contains(&value),
                        "a Get lacks write {value} of its client"
                    );
                }
                self.check_holds(key, &list, expected.from);
                // Lists only grow.
                let before = shown.insert(key, list.len());
                assert!(
                    before.is_none_or(|before| before <= list.len()),
                    "a Get shows less than the one before it in its batch"
                );
                let mut before = self.shown.iter().filter(|it| it.next <= expected.from);
                assert!(
                    before.all(|it| it.key != key || it.length <= list.len()),
                    "a Get shows less than one that was answered before it"
                );
            }
            for (key, length) in shown {
                let next = self.next_value;
                self.shown.push(Shown { key, length, next });
            }
        }
    }

    /// A `Get` shows each write of the key that was answered before it was submitted.
    fn check_holds(&self, key: usize, list: &[u64], from: u64) {
        let now = &self.lists.get(&self.keys[key]).cloned().unwrap_or_default();
        for value in now {
            let is_known = self.answered.get(value).is_some_and(|&next| next <= from);
            assert!(
                !is_known || list.contains(value),
                "a Get lacks write {value}"
            );
        }
    }

    pub(super) fn run(mut self) -> Done {
        for _ in 0..800 {
            self.step(true);
        }
        for node in &mut self.nodes {
            (node.hangs, node.is_down) = (false, false);
            node.old_rows = None;
        }
        for _ in 0..600 {
            self.step(false);
        }
        for (&value, &fate) in &self.writes {
            let is_applied = self.applied.contains(&value);
            match fate {
                Fate::Done => assert!(is_applied, "{value} is lost"),
                Fate::Failed => assert!(!is_applied, "{value} failed and is there"),
                Fate::Open | Fate::Unconfirmed => {}
            }
        }
        for list in self.lists.values() {
            // None stands behind one that was submitted when it was answered.
            let mut last = 0;
            for value in list {
                if let Some(&next) = self.answered.get(value) {
                    assert!(last < next, "{value} is out of order: {list:?}");
                    last = last.max(*value);
                }
            }
        }
        self.done
    }
}
