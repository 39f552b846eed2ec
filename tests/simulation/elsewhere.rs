//! Changes that are made elsewhere, and that a store brings in.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_lite::{Stream, stream};
use keywire::{
    protocol::Write,
    store::{Change, StoreSize},
};

use crate::{
    history::{Entry, History, Kind, What, line_of},
    lists::Lists,
    world::{World, lock},
};

/// Stands for a client where there is none.
const ELSEWHERE: usize = 1000;

struct Elsewhere {
    world: World,
    lists: Arc<Mutex<Lists>>,
    history: History,
    made: usize,
}

/// Some changes, now and then.
pub(crate) fn changes(
    world: &World,
    lists: &Arc<Mutex<Lists>>,
    history: &History,
) -> impl Stream<Item = Change> + Send + 'static {
    let elsewhere = Elsewhere {
        world: world.clone(),
        lists: lists.clone(),
        history: history.clone(),
        made: 0,
    };
    let most = world.random(|rng| rng.usize(..20));
    stream::unfold(elsewhere, move |mut elsewhere| async move {
        while elsewhere.made < most {
            elsewhere.made += 1;
            let time = elsewhere.world.random(|rng| rng.u64(..200));
            elsewhere.world.sleep(Duration::from_millis(time)).await;
            if let Some(change) = elsewhere.make() {
                return Some((change, elsewhere));
            }
        }
        None
    })
}

impl Elsewhere {
    /// A change of a key of which the store owes no answer, and of which the server has all. It is told
    /// at once.
    fn make(&self) -> Option<Change> {
        let key = ["k0", "k1", "k2", "k3", "w"][self.world.random(|rng| rng.usize(..5))];
        let tag = format!("{ELSEWHERE}.{}", self.made);
        let (key, value) = (key.as_bytes(), tag.as_bytes());
        let write = match self.world.random(|rng| rng.u8(..3)) {
            0 => Write::Put { key, value },
            1 => Write::Set { key, value },
            _ => Write::Update {
                key,
                old: b"0.1",
                new: value,
            },
        };
        let mut record = self.history.record();
        if record.owes(key) {
            return None;
        }
        lock(&self.lists).write(write);
        let number = record.number();
        let at = self.world.moment();
        record.entries.push(Entry {
            number,
            connection: ELSEWHERE,
            line: Vec::new(),
            tag: (ELSEWHERE, self.made),
            key: key.to_vec(),
            kind: Kind::Elsewhere,
            what: What::Written(key.to_vec(), line_of(write)),
            at,
            decided: at,
            answered: at,
            held: StoreSize::default(),
        });
        Some(Change::from(write))
    }
}
