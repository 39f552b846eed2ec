//! What a late store does with what it is asked, and how long it takes.

use std::time::Duration;

use crate::{store::StoreFaults, world::World};

/// What becomes of a batch, a page, or a request to watch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Answered,
    Failed,
    Unconfirmed,
    /// The store drops it.
    Lost,
    Panics,
    /// Nobody hears of it again.
    Stuck,
}

impl Fate {
    pub(crate) fn choose(world: &World, faults: StoreFaults) -> Self {
        if !faults.fails {
            return Fate::Answered;
        }
        match world.random(|rng| rng.u8(..60)) {
            0..=1 => Fate::Failed,
            2 => Fate::Unconfirmed,
            3 => Fate::Lost,
            4 => Fate::Panics,
            5 if faults.sticks => Fate::Stuck,
            _ => Fate::Answered,
        }
    }
}

/// Lets some time pass, or none.
pub(crate) async fn dawdle(world: &World) {
    match world.random(|rng| rng.u8(..20)) {
        0..=1 => {
            let time = world.random(|rng| rng.u64(..1500));
            world.sleep(Duration::from_millis(time)).await;
        }
        2..=9 => {
            for _ in 0..world.random(|rng| rng.u8(1..6)) {
                world.give_way().await;
            }
        }
        _ => {}
    }
}
