//! What came of it all.

use keywire::{Event, Snapshot};

use super::{Fate, KEYS, MIRRORED, Run, name};

impl Run {
    pub(super) fn check(&self, heard: &[Vec<Event>], mirrors: &[Snapshot]) {
        let store = self.store.take().unwrap().0;
        let lists: Vec<Vec<Vec<u8>>> = (0..KEYS)
            .map(|key| {
                store
                    .get(name(key).as_bytes())
                    .map(<[u8]>::to_vec)
                    .collect()
            })
            .collect();
        for put in &*self.puts.borrow() {
            let times = lists[put.key].iter().filter(|value| **value == put.value);
            let times = times.count();
            let is_right = match put.fate {
                Fate::Applied(_) => times == 1,
                Fate::NotApplied => times == 0,
                Fate::Open | Fate::InDoubt => times <= 1,
            };
            assert!(is_right, "applied {times} times: {put:?}");
        }
        for read in &*self.reads.borrow() {
            let list = &lists[read.key];
            assert!(list.starts_with(&read.values), "{read:?} of {list:?}");
            for put in self.puts.borrow().iter().filter(|put| put.key == read.key) {
                if let Fate::Applied(told) = put.fate {
                    let is_read = read.values.contains(&put.value);
                    assert!(is_read || told > read.asked, "{put:?} before {read:?}");
                }
            }
        }
        heard.iter().for_each(|events| check_events(events, &lists));
        let expected = store
            .iter()
            .map(|(key, values)| (key.to_vec(), values.map(<[u8]>::to_vec).collect::<Vec<_>>()));
        let mirrored = |(key, _): &(Vec<u8>, _)| key.starts_with(MIRRORED.as_bytes());
        let expected: Snapshot = expected.filter(mirrored).collect();
        for mirror in mirrors {
            assert_eq!(*mirror, expected);
        }
    }
}

/// Whatever was applied between two events of a key, or between the last and the end, is announced as
/// missed.
fn check_events(events: &[Event], lists: &[Vec<Vec<u8>>]) {
    for (key, list) in lists.iter().enumerate() {
        // The place of the next value, once it is known.
        let mut next = None;
        for event in events {
            match event {
                Event::Put { key: of, value } if *of == name(key).as_bytes() => {
                    let place = list.iter().position(|one| one == value).unwrap();
                    assert!(
                        next.is_none_or(|next| next == place),
                        "{value:?}: {events:?}"
                    );
                    next = Some(place + 1);
                }
                Event::Missed(_) => next = None,
                _ => {}
            }
        }
        assert!(next.is_none_or(|next| next == list.len()), "{events:?}");
    }
}
