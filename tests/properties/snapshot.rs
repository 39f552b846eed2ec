//! A snapshot of a prefix, while others write.

use std::collections::BTreeMap;

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Snapshot};
use proptest::prelude::*;

use crate::scripted;

const KEYS: usize = 4;

/// What a server does, one step after the other.
#[derive(Clone, Debug)]
enum Step {
    /// A write of anybody: which, of which key, with which values.
    Write(usize, usize, u8, u8),
    /// The walk comes to the next place, and shows the key that is there. If the key was absent since
    /// the walk began, the walk may pass it by.
    Show(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..5usize, 0..KEYS, 0..3u8, 0..3u8);
    let write = write.prop_map(|(kind, key, old, new)| Step::Write(kind, key, old, new));
    let show = any::<bool>().prop_map(Step::Show);
    prop::collection::vec(prop_oneof![3 => write, 1 => show], 0..60)
}

/// The server's store: the lists by the number of the key.
#[derive(Clone, Default)]
struct Lists([Vec<u8>; KEYS]);

impl Lists {
    /// Applies a write and gives the event.
    fn write(&mut self, kind: usize, key: usize, old: u8, new: u8) -> String {
        let list = &mut self.0[key];
        let found = list.iter().position(|value| *value == old);
        match (kind, found) {
            (0, _) => list.push(old),
            (1, Some(at)) => list[at] = new,
            (1, None) => list.push(new),
            (2, _) => *list = vec![old],
            (3, Some(at)) => drop(list.remove(at)),
            (3, None) => {}
            _ => list.clear(),
        }
        match kind {
            0 => format!(":put:k{key}:{old}\n"),
            1 => format!(":update:k{key}:{old}:{new}\n"),
            2 => format!(":set:k{key}:{old}\n"),
            3 => format!(":remove:k{key}:{old}\n"),
            _ => format!(":delete:k{key}\n"),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let lists = self.0.iter().enumerate();
        let lists = lists.filter(|(_, list)| !list.is_empty());
        let text = |value: &u8| value.to_string().into_bytes();
        lists
            .map(|(key, list)| {
                let values = list.iter().map(text).collect();
                (format!("k{key}").into_bytes(), values)
            })
            .collect::<BTreeMap<_, _>>()
    }
}

proptest! {
    /// Whatever is written before, during and after the walk: the snapshot is the store at the end
    /// of the walk, and with the events behind it the store at the end of all.
    #[test]
    fn a_snapshot_is_the_store(before in steps(), during in steps(), after in steps()) {
        let mut lists = Lists::default();
        let apply = |lists: &mut Lists, steps: &[Step]| {
            let mut events = String::new();
            for step in steps {
                if let Step::Write(kind, key, old, new) = *step {
                    events += &lists.write(kind, key, old, new);
                }
            }
            events
        };
        let early = apply(&mut lists, &before);

        let mut walk = String::new();
        let mut absent = lists.0.each_ref().map(Vec::is_empty);
        let mut place = 0;
        for step in during.into_iter().chain([const { Step::Show(false) }; KEYS]) {
            match step {
                Step::Write(kind, key, old, new) => {
                    walk += &lists.write(kind, key, old, new);
                    absent[key] |= lists.0[key].is_empty();
                }
                Step::Show(passes) if place < KEYS => {
                    let passed = passes && absent[place];
                    for value in lists.0[place].iter().filter(|_| !passed) {
                        walk += &format!("k{place}:{value}\n");
                    }
                    place += 1;
                }
                Step::Show(_) => {}
            }
        }
        let expected = lists.snapshot();
        let late = apply(&mut lists, &after);

        let events = late.lines().count();
        let mut walking = false;
        let (stream, _server) = scripted::pair(move |line, out| match line.split_once(':') {
            Some(("WatchPrefix", prefix)) => *out += &format!(":watchprefix:{prefix}\n{early}"),
            Some(("GetPrefix", _)) => {
                *out += &walk;
                walking = true;
            }
            Some(("Sync", token)) => {
                *out += &format!(":sync:0:{token}\n");
                if std::mem::take(&mut walking) {
                    *out += &late;
                }
            }
            _ => {}
        });
        let client = Client::from_stream(stream);
        future::block_on(async {
            let (mut kept, mut watcher) = client.get_and_watch_prefix("k").await.unwrap();
            prop_assert_eq!(&kept, &expected);
            for _ in 0..events {
                watcher.next().await.unwrap().unwrap().apply_to(&mut kept).unwrap();
            }
            prop_assert_eq!(kept, lists.snapshot());
            Ok(())
        })?;
    }
}
