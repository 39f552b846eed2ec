//! Which client has its turn next.

use std::collections::VecDeque;

/// Clients whose commands wait for their turn, in the order of their turns. A client may be in the
/// queue twice; the second time it has no pending lines and is skipped.
///
/// Clients whose turns take long stand apart. A round comes to them last, so that a client with a
/// short turn does not wait for several long ones; but if it did not come to them, the next round
/// begins with one.
#[derive(Default)]
pub(super) struct TurnQueue {
    short: VecDeque<usize>,
    long: VecDeque<usize>,
    /// The next one is a client with long turns, if there is one.
    pub(super) long_first: bool,
}

impl TurnQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    pub(super) fn side(&mut self, long: bool) -> &mut VecDeque<usize> {
        match long {
            true => &mut self.long,
            false => &mut self.short,
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<usize> {
        let long = if std::mem::take(&mut self.long_first) {
            self.long.pop_front()
        } else {
            None
        };
        long.or_else(|| self.short.pop_front())
            .or_else(|| self.long.pop_front())
    }
}
