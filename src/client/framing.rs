//! Requests → lines, and lines → responses: the framing, without any I/O.
//!
//! In: calls, and the lines that the server sends. Out: lines to be sent, a response to each
//! request, and events for the watchers' queues. This file holds the way out; [`incoming`] the way
//! in, [`walk`] that of the replies that are as long as the store is large, and [`lost`] what is taken
//! from one connection to the next.
//!
//! Commands go out in *exchanges*: any number of writes, then at most one command that is answered by
//! lines of its own, then a `Sync` with the number of its own line for a token. So whatever comes
//! before the reply to that Sync belongs to that one command, or is an error that names its line.

mod incoming;
mod lost;
mod walk;

use std::{collections::VecDeque, sync::Arc};

use super::{
    call::{PendingCall, Request},
    snapshot::Snapshot,
    watch::{EventQueue, OwnedTopic, WatchTable},
};
use crate::{
    Error, Stats,
    error::ConnectionError,
    protocol::{Command, MissedCount, Operation},
};

/// What is encoded before it is written. A command is never cut, so it may be one command more.
const WRITE_BYTES: usize = 64 * 1024;

/// Commands that have been sent and have no response. More would wait in the server's socket, to
/// no gain: this many fill a read of the server.
const IN_FLIGHT: usize = 4096;

/// Writes with one fence, if another connection can follow: a server that is slow has to give a sign of
/// life from time to time, and what it has confirmed is not in doubt.
const FENCED_WRITES: usize = 128;

/// The most that the lines of one reply may take: what a server sends unless it was built to send
/// more. Without a bound, a server gone mad would fill the memory.
pub(super) const MAX_REPLY: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Framing {
    /// Answered in this order. Only the last may have anything left to send.
    calls: VecDeque<PendingCall>,
    /// Calls to be sent before any other, in this order.
    first_calls: VecDeque<PendingCall>,
    /// The line of each command in flight; 0 for one that has no line but the fence.
    in_flight: VecDeque<u64>,
    /// Writes in flight that may be sent again, by their lines.
    kept_writes: VecDeque<(u64, Vec<u8>)>,
    exchanges: VecDeque<Exchange>,
    /// Lines sent on this connection.
    lines: u64,
    /// The line of the last fence, and the number of commands behind it.
    last_fence: u64,
    unfenced: usize,
    partial: PartialResponse,
    /// What the server said last, if that was a refusal.
    refusal: Option<ConnectionError>,
    /// The server never admitted this connection.
    rejected: bool,
    watches: WatchTable,
    /// Another connection may follow this one.
    comes_back: bool,
    greeting: Greeting,
    /// A server that shuts down has refused this line, and so all behind it.
    closing_from: Option<u64>,
}

/// Of a connection that is not the first: whether the server has answered yet. Nothing else is sent
/// before, so that a connection that comes to nothing leaves no write in doubt.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    #[default]
    None,
    Sent,
    Answered,
}

struct Exchange {
    /// Its lines: from this to the one of its Sync.
    first: u64,
    fence: u64,
    /// How many commands it answers.
    commands: usize,
    /// The last of them, if that is answered by lines of its own.
    query: Option<Request>,
}

/// What has come for the first exchange so far.
#[derive(Default)]
struct PartialResponse {
    /// Of one key.
    values: Vec<Vec<u8>>,
    bytes: usize,
    /// The key of these values, in a walk.
    key: Vec<u8>,
    snapshot: Snapshot,
    /// Changes that are missing in the snapshot.
    missed: MissedCount,
    stats: Option<Stats>,
    watching: bool,
    /// In the order of their lines.
    errors: VecDeque<(u64, Error)>,
}

impl Framing {
    /// Whether there may be something to encode besides what is in `out`.
    pub(super) fn has_room(&self, out: &[u8]) -> bool {
        out.len() < WRITE_BYTES && self.in_flight.len() < IN_FLIGHT
    }

    /// Whether a call is not sent to its end.
    pub(super) fn is_sending(&self) -> bool {
        self.calls.back().is_some_and(|last| !last.is_sent())
    }

    /// Takes a call, all of those before it being sent.
    pub(super) fn accept(&mut self, call: PendingCall) {
        self.calls.push_back(call);
    }

    /// A watcher was dropped.
    pub(super) fn unwatch(&mut self, topic: &OwnedTopic, queue: &Arc<EventQueue>) {
        if self.watches.remove(topic, queue) {
            let mut line = Vec::new();
            Command::Unwatch(topic.topic()).encode(&mut line);
            self.calls
                .push_back(PendingCall::internal(vec![Request::Write(line)]));
        }
    }

    /// Encodes the next command of the last call, if it has one.
    pub(super) fn encode_next(&mut self, out: &mut Vec<u8>) {
        let Some(call) = self.calls.back_mut() else {
            return;
        };
        let repeats_writes = call.repeats_writes();
        let Some(request) = call.next_request() else {
            if call.is_complete() {
                self.calls.pop_back();
            }
            return;
        };
        let request = match request {
            // The watcher was dropped since.
            Request::Watch { queue, .. } if !queue.mark_sent() => Request::Sync,
            request => request,
        };
        self.unfenced += 1;
        let has_line = !matches!(request, Request::Sync);
        self.lines += u64::from(has_line);
        self.in_flight
            .push_back(if has_line { self.lines } else { 0 });
        match &request {
            Request::Write(line) => {
                out.extend_from_slice(line);
                if let (true, Request::Write(line)) = (repeats_writes, request) {
                    self.kept_writes.push_back((self.lines, line));
                }
                if self.comes_back && self.unfenced >= FENCED_WRITES {
                    self.end_exchange(None, out);
                }
                return;
            }
            Request::Sync => return,
            Request::Get { key, .. } => Command::Operation(Operation::Get { key }).encode(out),
            Request::GetPrefix { prefix, .. } => Command::GetPrefix { prefix }.encode(out),
            Request::Keys { prefix, .. } => Command::Keys { prefix }.encode(out),
            Request::Stats => Command::Stats.encode(out),
            Request::Watch { topic, queue, .. } => {
                Command::Watch(topic.topic()).encode(out);
                self.watches.insert(topic, queue);
            }
        }
        self.end_exchange(Some(request), out);
    }

    /// Puts a fence behind what was encoded.
    pub(super) fn fence(&mut self, out: &mut Vec<u8>) {
        if self.unfenced > 0 {
            self.end_exchange(None, out);
        }
    }

    fn end_exchange(&mut self, query: Option<Request>, out: &mut Vec<u8>) {
        self.lines += 1;
        let fence = self.lines;
        let commands = std::mem::take(&mut self.unfenced);
        let token = fence.to_string();
        Command::Sync {
            token: Some(token.as_bytes()),
        }
        .encode(out);
        self.exchanges.push_back(Exchange {
            first: std::mem::replace(&mut self.last_fence, fence) + 1,
            fence,
            commands,
            query,
        });
        if self.exchanges.len() == 1 {
            self.begin_exchange();
        }
    }

    /// The command that the lines to come answer.
    fn query(&self) -> Option<&Request> {
        self.exchanges.front()?.query.as_ref()
    }

    fn begin_exchange(&mut self) {
        if let Some(Request::Get {
            snapshot: Some(queue),
            ..
        }) = self.query()
        {
            // All events so far stand before a fence that stands before the Get.
            queue.clear();
        }
    }
}
