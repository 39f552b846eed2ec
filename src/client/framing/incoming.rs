//! The way in: each line of the server completes a response, or is an event.

use super::{Exchange, Framing, MAX_REPLY, PartialResponse, walk};
use crate::{
    Error, Stats,
    client::call::{Destination, Request, Response},
    error::ConnectionError,
    protocol::{Code, Reply},
};

/// How much of a server's message is kept with an error.
const MAX_MESSAGE: usize = 1024;

impl Framing {
    /// Whether anything is to come from the server: a reply or an event.
    pub(in crate::client) fn expects(&self) -> bool {
        self.is_owed() || !self.watches.is_empty()
    }

    /// Whether the server owes a reply.
    pub(in crate::client) fn is_owed(&self) -> bool {
        !self.exchanges.is_empty()
    }

    /// The lines that follow are of one read.
    pub(in crate::client) fn begin_read(&mut self) {
        self.watches.begin_read();
    }

    /// Whether the last read had anything for a watcher.
    pub(in crate::client) fn has_notified(&self) -> bool {
        self.watches.has_notified()
    }

    /// Takes a line of the server. After an error, nothing that comes has a meaning.
    pub(in crate::client) fn line(&mut self, line: &[u8]) -> Result<(), ConnectionError> {
        let reply =
            Reply::parse(line).map_err(|_| ConnectionError::Protocol("a line that is no reply"))?;
        if matches!(
            reply,
            Reply::Value { .. } | Reply::Sync { .. } | Reply::Stats(_) | Reply::Watch(_)
        ) {
            // The connection goes on.
            self.refusal = None;
        }
        match reply {
            Reply::Value { key, value } => return self.value(key, value),
            Reply::Sync { dropped, token } => {
                return match self.exchanges.front() {
                    Some(Exchange { fence, .. }) if token == fence.to_string().as_bytes() => {
                        self.finish_exchange(dropped, None)
                    }
                    _ => Err(ConnectionError::Protocol("a Sync's reply out of turn")),
                };
            }
            Reply::Stats(counters) => match self.query() {
                Some(Request::Stats) if self.partial.stats.is_none() => {
                    let stats = Stats::parse(counters);
                    let stats =
                        stats.map_err(|_| ConnectionError::Protocol("counters that are none"))?;
                    self.partial.stats = Some(stats);
                }
                _ => return Err(ConnectionError::Protocol("counters out of turn")),
            },
            Reply::Error {
                line,
                code,
                message,
            } => {
                let message = &message[..message.len().min(MAX_MESSAGE)];
                let message = String::from_utf8_lossy(message).into_owned();
                return self.error(line, code, message);
            }
            Reply::Watch(watched) => match self
                .exchanges
                .front()
                .and_then(|exchange| exchange.query.as_ref())
            {
                Some(Request::Watch { topic, queue, .. })
                    if topic.topic() == watched && !self.partial.watching =>
                {
                    self.partial.watching = true;
                    self.watches.begin(topic, queue);
                }
                _ => return Err(ConnectionError::Protocol("a watch out of turn")),
            },
            Reply::Change(change) => self.change(change),
            Reply::Missed(changes) => {
                self.partial.missed.add(changes);
                self.watches.missed(changes);
            }
            // A newer server may say more than this client understands.
            Reply::Other(_) => {}
        }
        Ok(())
    }

    fn value(&mut self, requested: &[u8], value: &[u8]) -> Result<(), ConnectionError> {
        let query = self
            .exchanges
            .front()
            .and_then(|first| first.query.as_ref());
        let (key, snapshot) = match query {
            Some(Request::Get { key, snapshot }) => (key, snapshot),
            Some(Request::GetPrefix { prefix, to }) => {
                return self.partial.entry((requested, value), prefix, to);
            }
            Some(Request::Keys { prefix, queue }) => {
                return walk::count((requested, value), prefix, queue);
            }
            _ => return Err(ConnectionError::Protocol("a value out of turn")),
        };
        if key != requested {
            return Err(ConnectionError::Protocol("a value of another key"));
        }
        if let (true, Some(queue)) = (self.partial.values.is_empty(), snapshot) {
            queue.clear();
        }
        self.partial.bytes += requested.len() + value.len() + 2;
        if self.partial.bytes > MAX_REPLY {
            return Err(ConnectionError::Protocol("a reply without end"));
        }
        self.partial.values.push(value.to_vec());
        Ok(())
    }

    fn error(&mut self, line: u64, code: Code, message: String) -> Result<(), ConnectionError> {
        let refusal = ConnectionError::Refused { code, message };
        // After the other codes, a server goes on.
        let may_end = !matches!(
            code,
            Code::Unknown | Code::Store | Code::Unconfirmed | Code::Full
        );
        self.refusal = may_end.then(|| refusal.clone());
        if line > 0 && self.is_greeting() {
            return Err(refusal);
        }
        // A walk is stopped where it is, and the lines behind it may still be served.
        if line > 0 && code == Code::Closing && self.comes_back && !self.is_walk(line) {
            self.closing_from = Some(line);
            return Err(refusal);
        }
        if line == 0 {
            self.rejected = matches!(code, Code::Full | Code::Unauthorized);
            // What an unknown code ends, if anything, can't be known.
            return match code {
                Code::Other => Ok(()),
                _ => Err(refusal),
            };
        }
        let last = self.partial.errors.back().map_or(0, |(line, _)| *line);
        let exchange = self.exchanges.front();
        match exchange.filter(|exchange| line >= exchange.first) {
            Some(exchange) if line == exchange.fence => self.finish_exchange(0, Some(&refusal)),
            Some(exchange) if line < exchange.fence && line > last => {
                self.partial.errors.push_back((line, refusal.into()));
                Ok(())
            }
            _ => Err(ConnectionError::Protocol("an error out of turn")),
        }
    }

    /// The first exchange's fence is answered; or refused, and then nothing confirms the commands
    /// before it.
    fn finish_exchange(
        &mut self,
        dropped: u64,
        refused: Option<&ConnectionError>,
    ) -> Result<(), ConnectionError> {
        self.finish_walk();
        let Some(exchange) = self.exchanges.pop_front() else {
            return Ok(());
        };
        let mut partial = std::mem::take(&mut self.partial);
        for left in (0..exchange.commands).rev() {
            let line = self.in_flight.pop_front().unwrap_or_default();
            let response = match (partial.take_error(line), refused) {
                (Some(error), _) => Err(error),
                // A command that is nothing but the fence.
                (None, Some(refusal)) if line == 0 => Err(refusal.clone().into()),
                (None, Some(refusal)) => Err(refusal.clone().unconfirmed()),
                (None, None) if left == 0 => exchange.response(&mut partial, dropped)?,
                (None, None) => Ok(Response::Done),
            };
            let response = match (left, &exchange.query) {
                (0, Some(query)) => self.revise(query, response),
                _ => response,
            };
            self.respond(response);
        }
        while matches!(self.kept_writes.front(), Some((line, _)) if *line <= exchange.fence) {
            self.kept_writes.pop_front();
        }
        self.begin_exchange();
        self.finish_greeting();
        Ok(())
    }

    fn respond(&mut self, response: Result<Response, Error>) {
        let Some(call) = self.calls.front_mut() else {
            return;
        };
        call.respond(response);
        if call.is_complete()
            && let Some(call) = self.calls.pop_front()
        {
            call.finish();
        }
    }

    /// Why the connection has ended. A server that ends it says why in its last line.
    pub(in crate::client) fn reason(&mut self, error: ConnectionError) -> ConnectionError {
        match (error, self.refusal.take()) {
            (ConnectionError::Disconnected(_), Some(refusal)) => refusal,
            (error, _) => error,
        }
    }

    /// The connection is over: every call and every watcher gets the reason.
    pub(in crate::client) fn end(&mut self, reason: &ConnectionError) {
        if matches!(reason, ConnectionError::Protocol(_)) {
            // Then nobody knows which line any of its errors belongs to.
            self.partial.errors.clear();
        }
        while let Some(line) = self.in_flight.pop_front() {
            let error = match self.partial.take_error(line) {
                Some(error) => error,
                None if self.may_be_applied(line) => reason.clone().unconfirmed(),
                None => reason.clone().into(),
            };
            self.respond(Err(error));
        }
        self.exchanges.clear();
        for call in self.calls.drain(..).chain(self.first_calls.drain(..)) {
            call.fail(reason);
        }
        self.watches.end(reason);
    }

    /// Whether a command that was sent and has no response may be applied. That the server refuses
    /// the connection says nothing of the lines that it had taken before.
    fn may_be_applied(&self, line: u64) -> bool {
        let is_query = |exchange: &Exchange| line + 1 == exchange.fence && exchange.query.is_some();
        line > 0 && !self.rejected && !self.exchanges.iter().any(is_query)
    }
}

impl PartialResponse {
    /// The error of the command on this line, if that is the first of the errors that came.
    pub(super) fn take_error(&mut self, line: u64) -> Option<Error> {
        self.errors.front().filter(|(first, _)| *first == line)?;
        self.errors.pop_front().map(|(_, error)| error)
    }
}

impl Exchange {
    /// The response to its last command, of what came before the fence. `Err` if that can't be.
    fn response(
        &self,
        partial: &mut PartialResponse,
        dropped: u64,
    ) -> Result<Result<Response, Error>, ConnectionError> {
        let queue = self.query.as_ref().and_then(Request::walk_queue);
        let dropped = dropped.saturating_add(queue.map_or(0, |queue| queue.dropped()));
        let response = match &self.query {
            None | Some(Request::Write(_) | Request::Sync) => Response::Done,
            Some(_) if dropped > 0 => return Ok(Err(Error::RepliesDropped { lines: dropped })),
            Some(Request::Get { snapshot, .. }) => match snapshot {
                Some(queue) if partial.values.is_empty() && !queue.holds_only_values() => {
                    Response::Retry
                }
                _ => Response::Values(std::mem::take(&mut partial.values)),
            },
            Some(Request::GetPrefix {
                to: Destination::Snapshot(queue),
                ..
            }) => {
                // All events so far are contained.
                queue.clear();
                match partial.missed.take() {
                    None => Response::Snapshot(std::mem::take(&mut partial.snapshot)),
                    Some(missed) => Response::Missed(missed),
                }
            }
            Some(Request::GetPrefix { .. } | Request::Keys { .. }) => Response::Done,
            Some(Request::Stats) => match partial.stats.take() {
                Some(stats) => Response::Stats(stats.into()),
                None => return Err(ConnectionError::Protocol("no counters")),
            },
            Some(Request::Watch { .. }) if partial.watching => Response::Done,
            Some(Request::Watch { .. }) => {
                return Err(ConnectionError::Protocol("no answer to a watch"));
            }
        };
        Ok(Ok(response))
    }
}
