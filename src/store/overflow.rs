//! What becomes of a reply for a client that does not read: it is queued or dropped, or the client is
//! disconnected.
//!
//! A reply is dropped only if the outbox is full *and* the transport is stalled. If only the outbox is
//! full, the client's commands wait.

use super::turn::Progress;
use crate::Overflow;

/// What becomes of a reply.
pub(super) enum ReplyAction {
    Queue,
    Drop,
    /// Nothing: the client is gone, or it is to be disconnected.
    None,
}

impl Progress {
    /// Whether nothing is delivered to the client any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.status.closed || self.aborted
    }

    /// Decides about a reply to a `Get`, of so many lines.
    pub(super) fn decide_reply(&mut self, lines: usize) -> ReplyAction {
        if self.is_closed() {
            ReplyAction::None
        } else if !self.overflows() {
            ReplyAction::Queue
        } else if lines > 0 && self.limits.overflow == Overflow::Disconnect {
            self.aborted = true;
            ReplyAction::None
        } else {
            ReplyAction::Drop
        }
    }

    /// Decides whether a control line is queued. It is never dropped. If the outbox overflows, the
    /// client is disconnected: under `Disconnect` at once, else when an outbox-full of control lines is
    /// unread.
    pub(super) fn accepts_control_line(&mut self) -> bool {
        if self.overflows() {
            let mut control = self.status.usage.control;
            control += self.usage.control;
            let limits = &self.limits;
            self.aborted |= limits.overflow == Overflow::Disconnect || control.is_full(limits);
        }
        !self.is_closed()
    }

    /// Whether the client's commands have to wait until it reads.
    pub(super) fn awaits_capacity(&mut self) -> bool {
        !self.is_closed() && self.is_full() && !self.overflows()
    }

    pub(super) fn is_full(&self) -> bool {
        let mut all = self.status.usage.all;
        all += self.usage.all;
        all.is_full(&self.limits)
    }

    /// Whether the outbox is full and the transport is stalled. The status is read again before that
    /// is said: a store may have taken its time since the turn began.
    fn overflows(&mut self) -> bool {
        if !(self.status.stalled && self.is_full()) {
            return false;
        }
        self.refresh_status();
        self.status.stalled && self.is_full()
    }

    /// Events may have been sent since the turn began, if its batch was with a store that waits.
    pub(super) fn refresh_status(&mut self) {
        if let Some(outbox) = &self.outbox {
            self.status = outbox.status();
        }
    }
}
