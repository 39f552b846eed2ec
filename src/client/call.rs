//! A call: what a caller requests in one go, and the way of the responses back to it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Poll, Waker},
};

use super::{
    snapshot::Snapshot,
    walk_queue::WalkQueue,
    watch::{EventQueue, OwnedTopic},
};
use crate::{Error, Stats, error::ConnectionError, lock::Lock};

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
        /// It was begun on a connection that is lost.
        again: bool,
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
    /// Writes that may have been applied are sent again on the next connection.
    pub(super) repeats_writes: bool,
    pub(super) caller: Caller,
}

impl Call {
    pub(super) fn new(requests: Vec<Request>, repeats_writes: bool) -> (Self, Receipt) {
        let cell = Arc::new(Lock::new(ResponseCell::Waiting(None)));
        let receipt = Receipt(cell.clone());
        let caller = Caller {
            cell,
            responses: None,
        };
        let call = Self {
            requests,
            repeats_writes,
            caller,
        };
        (call, receipt)
    }
}

/// The way of the responses to one caller. A bounded channel would do, and cost a quarter of the
/// calls a second if many tasks share the connection.
enum ResponseCell {
    /// Nothing was sent. With the waker of the caller, while it waits.
    Waiting(Option<Waker>),
    /// Something may have been sent.
    Sent(Option<Waker>),
    /// `None` if there are no responses: the connection has ended before anything was sent. Or they
    /// have been taken.
    Done(Option<Responses>),
    /// The caller gave up before anything was sent.
    Cancelled,
}

/// The connection's end. Dropping it delivers the responses.
pub(super) struct Caller {
    cell: Arc<Lock<ResponseCell>>,
    responses: Option<Responses>,
}

impl Caller {
    pub(super) fn has_given_up(&self) -> bool {
        Arc::strong_count(&self.cell) == 1
    }

    /// Something is about to be sent. `false` if the caller has given up: then nothing must be.
    fn begin(&self) -> bool {
        let mut cell = self.cell.lock();
        match &mut *cell {
            ResponseCell::Waiting(waker) => {
                let waker = waker.take();
                *cell = ResponseCell::Sent(waker);
                true
            }
            ResponseCell::Cancelled => false,
            ResponseCell::Sent(_) | ResponseCell::Done(_) => true,
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let done = ResponseCell::Done(self.responses.take());
        let before = std::mem::replace(&mut *self.cell.lock(), done);
        if let ResponseCell::Waiting(Some(waker)) | ResponseCell::Sent(Some(waker)) = before {
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
            ResponseCell::Waiting(before) | ResponseCell::Sent(before) => {
                let before = std::mem::replace(before, waker.cloned());
                drop(cell);
                drop(before);
                Poll::Pending
            }
            ResponseCell::Cancelled => Poll::Ready(None),
        }
    }

    /// The caller gives up. Says whether it is certain that nothing was sent, and never will be.
    pub(super) fn cancel(&self) -> bool {
        let mut cell = self.0.lock();
        let before = match &mut *cell {
            ResponseCell::Waiting(waker) => waker.take(),
            ResponseCell::Done(responses) => return responses.is_none(),
            ResponseCell::Sent(_) => return false,
            ResponseCell::Cancelled => return true,
        };
        *cell = ResponseCell::Cancelled;
        drop(cell);
        drop(before);
        true
    }
}

/// How often the requests of one call are sent again after they may have been carried out. One that
/// crashes its server must not do so for ever.
const MAX_REPEATS: usize = 3;

/// What becomes of a request on a connection that is lost.
pub(super) enum Fate {
    Failed(Error),
    /// It was not sent.
    Unsent(Request),
    /// It may have been carried out, and may be again.
    Repeatable(Request),
}

/// A call that is being sent or answered.
pub(super) struct PendingCall {
    rest: VecDeque<Request>,
    /// How many responses it gets.
    total: usize,
    /// In the order of the requests.
    responses: Responses,
    /// Responses of requests behind one that is sent again, by their places.
    early: VecDeque<(usize, Result<Response, Error>)>,
    /// How often requests of it were sent again that may have been carried out.
    repeats: usize,
    repeats_writes: bool,
    /// Something of it was sent.
    begun: bool,
    /// `None` for a request of the connection itself.
    caller: Option<Caller>,
}

impl PendingCall {
    /// A request of the connection itself.
    pub(super) fn internal(requests: Vec<Request>) -> Self {
        Self::with(requests, false, None)
    }

    fn with(requests: Vec<Request>, repeats_writes: bool, caller: Option<Caller>) -> Self {
        Self {
            total: requests.len(),
            rest: requests.into(),
            responses: Vec::new(),
            early: VecDeque::new(),
            repeats: 0,
            repeats_writes,
            begun: false,
            caller,
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_sent() && self.responses.len() + self.early.len() == self.total
    }

    pub(super) fn repeats_writes(&self) -> bool {
        self.repeats_writes
    }

    /// Nobody waits for its responses.
    pub(super) fn is_void(&self) -> bool {
        self.caller.as_ref().is_none_or(Caller::has_given_up)
    }

    /// The next request to be sent. If the caller has given up, the rest is not sent; the responses
    /// to what was sent are dropped when they have come.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        let begun = std::mem::replace(&mut self.begun, true);
        let may_send = |caller: &Caller| !caller.has_given_up() && (begun || caller.begin());
        if !self.caller.as_ref().is_none_or(may_send) {
            self.total -= self.rest.len();
            self.rest.clear();
        }
        self.rest.pop_front()
    }

    pub(super) fn respond(&mut self, response: Result<Response, Error>) {
        self.responses.push(response);
        self.take_early();
    }

    fn take_early(&mut self) {
        let is_next = |early: &VecDeque<(usize, _)>, next| matches!(early.front(), Some((place, _)) if *place == next);
        while is_next(&self.early, self.responses.len()) {
            let next = self.early.pop_front();
            self.responses.extend(next.map(|(_, response)| response));
        }
    }

    pub(super) fn finish(self) {
        if let Some(mut caller) = self.caller {
            caller.responses = Some(self.responses);
        }
    }

    /// How many requests were sent and have no response.
    pub(super) fn under_way(&self) -> usize {
        self.total - self.responses.len() - self.early.len() - self.rest.len()
    }

    /// The connection is lost for this reason. Takes what becomes of the requests that were sent and
    /// have no response, in their order.
    pub(super) fn resume(&mut self, fates: impl Iterator<Item = Fate>, reason: &ConnectionError) {
        let mut again = VecDeque::new();
        let mut repeated = false;
        let mut place = self.responses.len();
        let mut early = std::mem::take(&mut self.early).into_iter().peekable();
        for fate in fates {
            while let Some(known) = early.next_if(|(known, _)| *known == place) {
                self.early.push_back(known);
                place += 1;
            }
            match fate {
                Fate::Failed(error) => self.early.push_back((place, Err(error))),
                Fate::Unsent(request) => again.push_back(request),
                Fate::Repeatable(request) if self.repeats < MAX_REPEATS => {
                    again.push_back(request);
                    repeated = true;
                }
                Fate::Repeatable(_) => {
                    let error = reason.clone().unconfirmed();
                    self.early.push_back((place, Err(error)));
                }
            }
            place += 1;
        }
        self.early.extend(early);
        self.repeats += usize::from(repeated);
        again.append(&mut self.rest);
        self.rest = again;
        self.take_early();
    }

    /// No connection will take what is left of the call, and all that was sent has a response.
    pub(super) fn fail(mut self, reason: &ConnectionError) {
        if self.responses.is_empty() && self.early.is_empty() && self.repeats == 0 {
            return; // the caller learns that nothing was sent
        }
        // Some of those that are left were sent before.
        let was_sent = self.repeats > 0;
        while let Some(request) = self.rest.pop_front() {
            let error = match request {
                Request::Write(_) if was_sent && self.repeats_writes => {
                    reason.clone().unconfirmed()
                }
                Request::Write(_) | Request::Sync => Error::from(reason.clone()).not_sent(),
                _ if was_sent => reason.clone().into(),
                _ => Error::from(reason.clone()).not_sent(),
            };
            self.respond(Err(error));
        }
        self.finish();
    }
}

impl From<Call> for PendingCall {
    fn from(call: Call) -> Self {
        Self::with(call.requests, call.repeats_writes, Some(call.caller))
    }
}
