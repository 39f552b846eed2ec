//! Who uses which cluster, and when.

use std::{
    ops::Deref,
    sync::{Condvar, Mutex, OnceLock},
};

use super::{Nodes, Setup};
use crate::servers::{Bound, within};

/// A cluster for the tests that leave it as it was. Each has names of its own on it.
pub(crate) fn shared() -> &'static Nodes {
    static SHARED: OnceLock<Nodes> = OnceLock::new();
    SHARED.get_or_init(|| Nodes::start(Setup::default()))
}

/// So many clusters that tests break are there at a time: most of the time they wait, for others to miss
/// a node.
const EXCLUSIVE: usize = 2;

static IN_USE: Mutex<usize> = Mutex::new(0);
static ONE_ENDS: Condvar = Condvar::new();

/// One of these.
pub(crate) struct Exclusive {
    nodes: Nodes,
    _bound: Bound,
    // The last to go.
    _turn: Turn,
}

struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        *IN_USE.lock().unwrap() -= 1;
        ONE_ENDS.notify_one();
    }
}

impl Deref for Exclusive {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

/// A cluster for one test, which has a minute with it.
pub(crate) fn exclusive(setup: Setup) -> Exclusive {
    let in_use = IN_USE.lock().unwrap();
    let is_full = |in_use: &mut usize| *in_use == EXCLUSIVE;
    *ONE_ENDS.wait_while(in_use, is_full).unwrap() += 1;
    let turn = Turn;
    Exclusive {
        _bound: within(60),
        nodes: Nodes::start(setup),
        _turn: turn,
    }
}
