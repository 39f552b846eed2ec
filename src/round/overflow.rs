//! What becomes of a reply for a client that does not read: it is queued or dropped, or the client is
//! disconnected.
//!
//! A reply is dropped only if the outbox is full *and* the transport is stalled. If only the outbox is
//! full, the client's commands wait.

use super::turn::Turn;
use crate::{Overflow, shared::limits::Limits};

/// What becomes of a reply.
pub(super) enum ReplyAction {
    Queue,
    Drop,
    /// Nothing: the client is gone, or it is to be disconnected.
    None,
}

impl Turn {
    /// Decides about a reply to a `Get`, of so many lines.
    pub(super) fn decide_reply(&mut self, lines: usize, limits: &Limits) -> ReplyAction {
        if self.is_closed() {
            ReplyAction::None
        } else if !self.overflows(limits) {
            ReplyAction::Queue
        } else if lines > 0 && limits.overflow == Overflow::Disconnect {
            self.aborted = true;
            ReplyAction::None
        } else {
            ReplyAction::Drop
        }
    }

    /// Decides whether a control line is queued. It is never dropped. If the outbox overflows, the
    /// client is disconnected: under `Disconnect` at once, else when an outbox-full of control lines is
    /// unread.
    pub(super) fn accepts_control_line(&mut self, limits: &Limits) -> bool {
        if self.overflows(limits) {
            let mut control = self.status.usage.control;
            control += self.usage.control;
            self.aborted |= limits.overflow == Overflow::Disconnect || control.is_full(limits);
        }
        !self.is_closed()
    }

    /// Whether the client's commands have to wait until it reads.
    pub(super) fn awaits_capacity(&mut self, limits: &Limits) -> bool {
        !self.is_closed() && self.is_full(limits) && !self.overflows(limits)
    }

    fn is_full(&self, limits: &Limits) -> bool {
        let mut all = self.status.usage.all;
        all += self.usage.all;
        all.is_full(limits)
    }

    /// Whether the outbox is full and the transport is stalled. The status is read again before that
    /// is said: a store may have taken its time since the turn began.
    fn overflows(&mut self, limits: &Limits) -> bool {
        if !(self.status.stalled && self.is_full(limits)) {
            return false;
        }
        self.status = self.outbox.status();
        self.status.stalled && self.is_full(limits)
    }
}
