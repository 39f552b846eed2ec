//! A call: what a caller requests in one go, and the way of the responses back to it.

use std::{
    sync::Arc,
    task::{Poll, Waker},
    vec,
};

use super::{
    snapshot::Snapshot,
    walk_queue::WalkQueue,
    watch::{EventQueue, OwnedTopic},
};
use crate::{Error, Stats, lock::Lock};

/// One command to the server.
pub(super) enum Request {
    /// A whole line that has no reply: a write, an `Auth` or an `Unwatch`.
    Write(Vec<u8>),
    Get {
        key: Vec<u8>,
        /// The changes up to the reply are contained in it, so they are removed from here.
        snapshot: Option<Arc<EventQueue>>,
    },
    GetPrefix {
        prefix: Vec<u8>,
        to: Destination,
    },
    Keys {
        prefix: Vec<u8>,
        queue: Arc<WalkQueue>,
    },
    /// Nothing but the fence.
    Sync,
    Stats,
    Watch {
        topic: OwnedTopic,
        queue: Arc<EventQueue>,
    },
}

/// Where the keys of a `GetPrefix` go.
pub(super) enum Destination {
    /// To whoever polls the walk, as they come.
    Walk(Arc<WalkQueue>),
    /// Into the response, all of them. The changes up to its end are contained in it, so they are
    /// removed from here.
    Snapshot(Arc<EventQueue>),
}

/// What the server replied to one [`Request`].
pub(super) enum Response {
    Done,
    Values(Vec<Vec<u8>>),
    /// No values, and no way to know which changes this read came before. Request it again.
    Retry,
    Snapshot(Snapshot),
    /// This many changes, 0 if that is unknown, were lost while the snapshot was read, so it is void. Request it again.
    Missed(u64),
    Stats(Box<Stats>),
}

pub(super) type Responses = Vec<Result<Response, Error>>;

/// What one caller requests in one go. It gets one response for each request.
pub(super) struct Call {
    pub(super) requests: Vec<Request>,
    pub(super) caller: Caller,
}

impl Call {
    pub(super) fn new(requests: Vec<Request>) -> (Self, Receipt) {
        let cell = Arc::new(Lock::new(ResponseCell::Pending(None)));
        let receipt = Receipt(cell.clone());
        let caller = Caller {
            cell,
            responses: None,
        };
        (Self { requests, caller }, receipt)
    }
}

/// The way of the responses to one caller. A bounded channel would do, and cost a quarter of the
/// calls a second if many tasks share the connection.
enum ResponseCell {
    /// With the waker of the caller, while it waits.
    Pending(Option<Waker>),
    /// `None` if there are no responses: the connection has ended before anything was sent. Or they
    /// have been taken.
    Done(Option<Responses>),
}

/// The connection's end. Dropping it delivers the responses.
pub(super) struct Caller {
    cell: Arc<Lock<ResponseCell>>,
    responses: Option<Responses>,
}

impl Caller {
    fn has_given_up(&self) -> bool {
        Arc::strong_count(&self.cell) == 1
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let done = ResponseCell::Done(self.responses.take());
        let before = std::mem::replace(&mut *self.cell.lock(), done);
        if let ResponseCell::Pending(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// The caller's end.
pub(super) struct Receipt(Arc<Lock<ResponseCell>>);

impl Receipt {
    pub(super) fn is_done(&self) -> bool {
        matches!(*self.0.lock(), ResponseCell::Done(_))
    }

    /// The responses. If there are none yet, this waker is woken when they come, in place of the one
    /// before.
    pub(super) fn poll(&self, waker: Option<&Waker>) -> Poll<Option<Responses>> {
        let mut cell = self.0.lock();
        match &mut *cell {
            ResponseCell::Done(responses) => Poll::Ready(responses.take()),
            ResponseCell::Pending(before) => {
                let before = std::mem::replace(before, waker.cloned());
                drop(cell);
                drop(before);
                Poll::Pending
            }
        }
    }
}

/// A call that is being sent or answered.
pub(super) struct PendingCall {
    rest: vec::IntoIter<Request>,
    /// The requests that were sent.
    sent: usize,
    responses: Responses,
    /// `None` for a request of the connection itself.
    caller: Option<Caller>,
}

impl PendingCall {
    pub(super) fn new(requests: Vec<Request>, caller: Option<Caller>) -> Self {
        Self {
            rest: requests.into_iter(),
            sent: 0,
            responses: Vec::new(),
            caller,
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.rest.len() == 0
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_sent() && self.responses.len() == self.sent
    }

    /// The next request to be sent. If the caller has given up, the rest is not sent; the responses
    /// to what was sent are dropped when they have come.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.caller.as_ref().is_some_and(Caller::has_given_up) {
            self.rest = Vec::new().into_iter();
        }
        let request = self.rest.next()?;
        self.sent += 1;
        Some(request)
    }

    pub(super) fn respond(&mut self, response: Result<Response, Error>) {
        self.responses.push(response);
    }

    pub(super) fn finish(self) {
        if let Some(mut caller) = self.caller {
            caller.responses = Some(self.responses);
        }
    }

    /// Ends the call before its time: each request without a response gets this error.
    pub(super) fn fail(mut self, error: impl Fn() -> Error) {
        let missing = self.sent - self.responses.len() + self.rest.len();
        let errors = std::iter::repeat_with(|| Err(error()));
        self.responses.extend(errors.take(missing));
        self.finish();
    }
}
