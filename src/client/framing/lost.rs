//! From one connection to the next: what becomes of the calls and the watches.
//!
//! - What is certainly not applied is sent on the next connection.
//! - A read is sent again. A walk whose keys have begun to come is not, since some would come twice.
//! - A write that may be applied fails, unless its caller allows that it is applied twice.
//! - A fence fails: on the next connection it would say nothing of what was sent on this one.
//! - Watches are begun anew, and their watchers hear that changes were missed.

use std::mem::take;

use super::{Exchange, Framing, Greeting};
use crate::{
    Error,
    client::call::{Destination, Fate, PendingCall, Request, Response},
    error::ConnectionError,
    protocol::Code,
};

impl Framing {
    /// For a client that has more than one connection.
    pub(in crate::client) fn reconnecting() -> Self {
        Self {
            comes_back: true,
            ..Self::default()
        }
    }

    /// Begins a connection on which nothing was sent yet, with this line if the server wants one.
    pub(in crate::client) fn greet(&mut self, auth: Option<Request>) {
        self.greeting = Greeting::Sent;
        let requests = auth.into_iter().chain([Request::Sync]);
        self.calls
            .push_back(PendingCall::internal(requests.collect()));
    }

    /// Whether nothing but the greeting may be sent yet.
    pub(in crate::client) fn is_greeting(&self) -> bool {
        self.greeting == Greeting::Sent
    }

    /// Whether the server has answered the greeting.
    pub(in crate::client) fn is_greeted(&self) -> bool {
        self.greeting == Greeting::Answered
    }

    pub(super) fn finish_greeting(&mut self) {
        if !self.is_greeting() {
            return;
        }
        self.greeting = Greeting::Answered;
        let mut watches: Vec<_> = self.watches.lost().collect();
        watches.sort_by(|(one, _), (other, _)| one.cmp(other));
        let again = |(topic, queue)| Request::Watch {
            topic,
            queue,
            again: true,
        };
        let watches: Vec<_> = watches.into_iter().map(again).collect();
        if !watches.is_empty() {
            self.first_calls.push_front(PendingCall::internal(watches));
        }
    }

    /// Asks for an answer, to see that the server lives.
    pub(in crate::client) fn ping(&mut self) {
        self.first_calls
            .push_back(PendingCall::internal(vec![Request::Sync]));
    }

    /// Keeps a call until there is a connection.
    pub(in crate::client) fn keep(&mut self, call: PendingCall) {
        self.first_calls.push_back(call);
    }

    /// Forgets the calls whose callers have given up, and says how many are left.
    pub(in crate::client) fn purge(&mut self) -> usize {
        self.first_calls.retain(|call| !call.is_void());
        self.first_calls.len()
    }

    /// The next of the calls that come before any other.
    pub(in crate::client) fn next_first_call(&mut self) -> Option<PendingCall> {
        self.first_calls.pop_front()
    }

    pub(in crate::client) fn has_first_call(&self) -> bool {
        !self.first_calls.is_empty()
    }

    /// The connection is lost, and another one will be made. `unsent` are the lines that the transport
    /// did not take to their ends: they are certainly not applied.
    pub(in crate::client) fn lose(&mut self, reason: &ConnectionError, unsent: &[u8]) {
        if matches!(reason, ConnectionError::Protocol(_)) {
            // Then nobody knows which line any of its errors belongs to.
            self.partial.errors.clear();
        }
        let lines = unsent.split_inclusive(|&byte| byte == b'\n');
        let unsent = Unsent::new(lines.collect(), self.lines);
        let mut fates = Vec::with_capacity(self.in_flight.len());
        for mut exchange in take(&mut self.exchanges) {
            for left in (0..exchange.commands).rev() {
                let line = self.in_flight.pop_front().unwrap_or_default();
                let query = exchange.query.take_if(|_| left == 0);
                fates.push(self.fate(line, query, &exchange, &unsent, reason));
            }
        }
        let mut fates = fates.into_iter();
        let mut again = Vec::new();
        for mut call in take(&mut self.calls) {
            let under_way = call.under_way();
            let own = fates.by_ref().take(under_way);
            if call.is_void() {
                own.for_each(drop);
                continue;
            }
            call.resume(own, reason);
            match call.is_complete() {
                true => call.finish(),
                false => again.push(call),
            }
        }
        again.extend(
            take(&mut self.first_calls)
                .into_iter()
                .filter(|call| !call.is_void()),
        );
        let mut watches = take(&mut self.watches);
        watches.lose();
        *self = Self {
            first_calls: again.into(),
            watches,
            comes_back: self.comes_back,
            ..Self::default()
        };
    }

    fn fate(
        &mut self,
        line: u64,
        query: Option<Request>,
        exchange: &Exchange,
        unsent: &Unsent<'_>,
        reason: &ConnectionError,
    ) -> Fate {
        if let Some(error) = self.partial.take_error(line) {
            return Fate::Failed(error);
        }
        if let Some(Request::Watch {
            topic,
            queue,
            again: false,
        }) = &query
        {
            // Nobody relies on it yet, and what came of it so far would stand before a gap.
            let _ = self.watches.remove(topic, queue);
            queue.clear();
        }
        let is_unsent = exchange.fence >= unsent.first && (line == 0 || line >= unsent.first);
        let broken = matches!(reason, ConnectionError::Protocol(_));
        match query {
            Some(request) if is_unsent => Fate::Unsent(request),
            Some(request) if !broken && request.walk_queue().is_none() => Fate::Repeatable(request),
            Some(_) => Fate::Failed(reason.clone().into()),
            None if line == 0 && is_unsent => Fate::Unsent(Request::Sync),
            None if line == 0 => Fate::Failed(reason.clone().into()),
            None if is_unsent => Fate::Unsent(Request::Write(unsent.line(line))),
            None => match self.kept_writes.iter_mut().find(|(kept, _)| *kept == line) {
                Some((_, write)) => Fate::Repeatable(Request::Write(take(write))),
                None if self.closing_from.is_some_and(|from| line >= from) => {
                    Fate::Failed(reason.clone().into())
                }
                None => Fate::Failed(reason.clone().unconfirmed()),
            },
        }
    }

    /// What an answer means for a client that comes back: a snapshot that a shutdown stopped is begun again.
    /// A watch that should have begun anew and has not is over: its watcher would miss all that follows.
    pub(super) fn revise(
        &mut self,
        query: &Request,
        response: Result<Response, Error>,
    ) -> Result<Response, Error> {
        match (query, &response) {
            (
                Request::GetPrefix {
                    to: Destination::Snapshot(_),
                    ..
                },
                Err(Error::Refused {
                    code: Code::Closing,
                    ..
                }),
            ) if self.comes_back => return Ok(Response::Missed(0)),
            (Request::Watch { topic, queue, .. }, Err(error)) => {
                let reason = match error {
                    Error::Refused { code, message } | Error::Unconfirmed { code, message } => {
                        let (code, message) = (*code, message.clone());
                        ConnectionError::Refused { code, message }
                    }
                    _ => ConnectionError::Protocol("a watch that does not begin anew"),
                };
                self.watches.refuse(topic, queue, &reason);
            }
            _ => {}
        }
        response
    }
}

/// The last lines of a connection, which were not sent.
struct Unsent<'a> {
    /// The number of the first.
    first: u64,
    lines: Vec<&'a [u8]>,
}

impl<'a> Unsent<'a> {
    /// The last of them has this number.
    fn new(lines: Vec<&'a [u8]>, last: u64) -> Self {
        let first = (last + 1).saturating_sub(lines.len() as u64);
        Self { first, lines }
    }

    fn line(&self, number: u64) -> Vec<u8> {
        let index = number.saturating_sub(self.first) as usize;
        self.lines.get(index).copied().unwrap_or_default().to_vec()
    }
}
