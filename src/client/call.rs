//! A call: what a caller requests in one go, and the way of the responses back to it.

use std::{sync::Arc, vec};

use async_channel::Sender;

use super::watch::{EventQueue, OwnedTopic};
use crate::{Error, Stats};

/// One command to the server.
pub(super) enum Request {
    /// A whole line that has no reply: a write, an `Auth` or an `Unwatch`.
    Write(Vec<u8>),
    Get {
        key: Vec<u8>,
        /// The changes up to the reply are contained in it, so they are removed from here.
        snapshot: Option<Arc<EventQueue>>,
    },
    /// Nothing but the fence.
    Sync,
    Stats,
    Watch {
        topic: OwnedTopic,
        queue: Arc<EventQueue>,
    },
}

/// What the server replied to one [`Request`].
pub(super) enum Response {
    Done,
    Values(Vec<Vec<u8>>),
    /// No values, and no way to know which changes this read came before. Request it again.
    Retry,
    Stats(Box<Stats>),
}

pub(super) type Responses = Vec<Result<Response, Error>>;

/// What one caller requests in one go. It gets one response for each request.
///
/// The sender is that of a channel for one message. If it is dropped without one, the connection is
/// over and nothing was sent; if the receiver is dropped, the caller has given up.
pub(super) struct Call {
    pub(super) requests: Vec<Request>,
    pub(super) caller: Sender<Responses>,
}

/// A call that is being sent or answered.
pub(super) struct PendingCall {
    rest: vec::IntoIter<Request>,
    /// The requests that were sent.
    sent: usize,
    responses: Responses,
    /// `None` if nobody waits for the responses.
    caller: Option<Sender<Responses>>,
}

impl PendingCall {
    pub(super) fn new(call: Call) -> Self {
        Self {
            rest: call.requests.into_iter(),
            sent: 0,
            responses: Vec::new(),
            caller: Some(call.caller),
        }
    }

    /// A request of the connection itself.
    pub(super) fn internal(request: Request) -> Self {
        Self {
            rest: vec![request].into_iter(),
            sent: 0,
            responses: Vec::new(),
            caller: None,
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
        if self.caller.as_ref().is_some_and(Sender::is_closed) {
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
        if let Some(caller) = self.caller {
            // It fails if the caller has given up.
            let _ = caller.try_send(self.responses);
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
