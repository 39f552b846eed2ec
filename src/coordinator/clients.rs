//! The client table: connections come, send messages, and go.

use std::{borrow::Cow, io, net::IpAddr, sync::Arc, time::Duration};

use async_executor::Task;

use super::Coordinator;
use crate::{
    connection::{
        self, AUTH_TIMEOUT, Admission, Transport,
        message::{FromConnection, InputEnd, Message},
        outbox::{Chunk, Chunks, Next, OutboxReceiver, OutboxSender, Size, Usage},
        peer::Peer,
    },
    listen::{admission::LimitReached, incoming::Incoming},
    protocol::{Code, LineBlock, push_error},
    store::{rejection::Rejection, turn::Cursor, walk::Walk},
};

pub(super) struct ClientEntry {
    /// Its name in the log.
    pub(super) id: u64,
    pub(super) outbox: OutboxSender,
    /// Its number among the watchers, if it is one.
    pub(super) watcher: Option<usize>,
    /// How far its commands have been handled; `offset` is into the block of `pending`.
    pub(super) cursor: Cursor,
    /// Lines that have not been handled, waiting for a turn or for room.
    pub(super) pending: Option<Pending>,
    /// The time of its turns, of which each turn takes an eighth away.
    pub(super) recent_time: Duration,
    /// A batch of the client is with the store, or waits for its keys or its release.
    pub(super) at_store: bool,
    /// Waits for the store.
    pub(super) store_task: Option<Task<()>>,
    /// The connection is gone; only commands that have been read keep the client here.
    pub(super) disconnected: bool,
    pub(super) place: Place,
    _task: Task<()>,
}

/// What a connection counts against.
pub(super) enum Place {
    /// `max_clients`, and the limit of its address if there is one.
    Client { address: Option<IpAddr> },
    /// Nothing: it is being rejected.
    None,
}

pub(super) struct Pending {
    pub(super) block: LineBlock,
    pub(super) rejecting: bool,
    /// The walk of which the block is a page.
    pub(super) walk: Option<Box<Walk>>,
}

/// Why the input of an idle client ends, for the log.
const IDLE: &str = "idle for too long";

impl Coordinator {
    pub(super) fn add_client(&mut self, incoming: Incoming) {
        let Incoming {
            transport,
            address,
            peer,
            authenticated,
        } = incoming;
        let from = address;
        match self.limiter.admit(address, &self.server.limits) {
            Ok(address) => {
                self.stats.active += 1;
                self.last_id += 1;
                self.log.connected(self.last_id, from);
                let admission = match authenticated {
                    true => Admission::Authenticated,
                    false => Admission::Admitted,
                };
                self.spawn_connection(
                    (transport, peer),
                    self.context.outbox(),
                    Place::Client { address },
                    admission,
                );
            }
            Err(limit) => {
                self.log.refused(limit.message(), from);
                self.reject(transport, limit);
            }
        }
        self.publish();
    }

    /// Tells a connection why it is rejected, unless the maximum of connections is being rejected already.
    fn reject(&mut self, transport: Box<dyn Transport>, limit: LimitReached) {
        limit.count(&mut self.stats);
        if self.limiter.start_rejecting() {
            let (sender, receiver) = self.context.outbox();
            let outbox = (sender.clone(), receiver);
            let connection = (transport, None);
            self.spawn_connection(connection, outbox, Place::None, Admission::Rejected);
            self.send_error(&sender, 0, Code::Full, limit.message(), Next::Finish);
        }
    }

    fn spawn_connection(
        &mut self,
        connection: (Box<dyn Transport>, Option<Arc<Peer>>),
        (outbox, receiver): (OutboxSender, OutboxReceiver),
        place: Place,
        admission: Admission,
    ) {
        let entry = self.clients.vacant_entry();
        let task = connection::run(
            connection,
            entry.key(),
            receiver,
            self.context.clone(),
            admission,
        );
        entry.insert(ClientEntry {
            id: self.last_id,
            outbox,
            watcher: None,
            cursor: Cursor::default(),
            pending: None,
            recent_time: Duration::ZERO,
            at_store: false,
            store_task: None,
            disconnected: false,
            place,
            _task: self.executor.spawn(task),
        });
    }

    pub(super) fn on_message(&mut self, FromConnection { client, message }: FromConnection) {
        match message {
            Message::Lines { block, throttled } => {
                if let Some(entry) = self.clients.get_mut(client) {
                    entry.pending = Some(Pending {
                        block,
                        rejecting: self.shutting_down,
                        walk: None,
                    });
                    self.enqueue(client);
                    self.stats.throttled += u64::from(throttled);
                }
            }
            Message::OutboxReady => {
                self.send_missed_count(client);
                self.enqueue(client);
            }
            Message::Authenticated { line } => {
                self.stats.commands += 1;
                self.stats.auths += 1;
                if let Some(entry) = self.clients.get_mut(client) {
                    entry.cursor.line = line;
                    entry.cursor.knows_control_lines = true;
                }
                self.publish();
            }
            Message::AuthFailed(failed) => {
                self.stats.unauthorized += 1;
                if let Some(entry) = self.clients.get_mut(client) {
                    entry.cursor.knows_control_lines |= failed.wrong;
                    self.log.unauthorized(entry.id);
                    let outbox = entry.outbox.clone();
                    let message = failed.message();
                    let code = Code::Unauthorized;
                    self.send_error(&outbox, failed.line, code, message, Next::ReadMore);
                    self.publish();
                }
            }
            Message::InputEnd(end) => self.on_input_end(client, end),
            Message::Disconnected { error } => self.on_disconnect(client, error),
        }
    }

    /// Sends a client an error that is not of a round.
    fn send_error(
        &mut self,
        outbox: &OutboxSender,
        line: u64,
        code: Code,
        message: &str,
        then: Next,
    ) {
        let mut reply = Vec::new();
        push_error(&mut reply, line, code, message);
        let size = Size {
            lines: 1,
            bytes: reply.len(),
        };
        let usage = Usage {
            all: size,
            control: size,
        };
        self.stats.errors += 1;
        self.stats.lines_queued += 1;
        let chunks = Chunks::from_iter([Chunk::Own(reply)]);
        outbox.try_send(chunks, usage, then);
    }

    /// No more commands will come: after the last reply comes the end of the stream.
    fn on_input_end(&mut self, key: usize, end: InputEnd) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let id = client.id;
        let outbox = client.outbox.clone();
        let line = client.cursor.line + 1;
        let tells_closing = client.cursor.knows_control_lines && !client.cursor.told_closing;
        let watcher = client.watcher.take();
        if let Some(watcher) = watcher {
            // Nothing follows, so this is the last chance to notify it.
            if let Some(missed) = self.watches.take_missed(watcher) {
                self.send_missed(&outbox, missed);
            }
            self.watches.remove(watcher);
        }
        let limits = &self.server.limits;
        let (line, code, message): (_, _, Cow<'_, str>) = match end {
            // The last line says why the connection ends, to a client that knows such lines.
            InputEnd::ShuttingDown if tells_closing => (
                0,
                Code::Closing,
                Rejection::Closing.message(limits).to_string().into(),
            ),
            InputEnd::Eof | InputEnd::ShuttingDown => {
                outbox.try_send(Chunks::new(), Usage::default(), Next::Finish);
                return self.publish();
            }
            InputEnd::IncompleteLine => {
                let message = "the input ended within a line; it was not applied";
                (line, Code::Malformed, message.into())
            }
            InputEnd::LineTimeout => {
                self.stats.slow_lines += 1;
                self.log.input_ended(id, "a line took too long");
                let message = format!("the line took longer than {:?}", limits.line_timeout);
                (line, Code::TooLong, message.into())
            }
            InputEnd::OtherProtocol { protocol, line } => {
                self.log.input_ended(id, "it speaks another protocol");
                (line, Code::Malformed, protocol.message().into())
            }
            InputEnd::UnreadTimeout => {
                self.stats.idle += 1;
                self.log.input_ended(id, IDLE);
                return self.publish();
            }
            InputEnd::IdleTimeout => {
                self.stats.idle += 1;
                self.log.input_ended(id, IDLE);
                let message = format!("nothing has moved here for {:?}", limits.idle_timeout);
                (0, Code::Closing, message.into())
            }
            InputEnd::AuthFailed(failed) => {
                self.stats.unauthorized += 1;
                self.log.unauthorized(id);
                (failed.line, Code::Unauthorized, failed.message().into())
            }
            InputEnd::AuthTimeout => {
                self.stats.unauthorized += 1;
                self.log.unauthorized(id);
                let message = format!("Auth:secret has not come within {AUTH_TIMEOUT:?}");
                (0, Code::Unauthorized, message.into())
            }
        };
        self.send_error(&outbox, line, code, &message, Next::Finish);
        self.publish();
    }

    /// The connection is gone. Commands that it had read are still applied.
    fn on_disconnect(&mut self, key: usize, error: Option<io::Error>) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if matches!(client.place, Place::Client { .. }) {
            self.log.disconnected(client.id, error);
        }
        client.disconnected = true;
        if client.pending.is_some() {
            self.enqueue(key);
        } else if !client.at_store {
            self.remove(key);
        }
    }

    pub(super) fn remove(&mut self, key: usize) {
        let client = self.clients.remove(key);
        if let Some(watcher) = client.watcher {
            self.watches.remove(watcher);
        }
        match client.place {
            Place::Client { address } => {
                self.limiter.release(address);
                self.stats.active -= 1;
                self.stats.dropped += 1;
            }
            Place::None => self.limiter.finish_rejecting(),
        }
        self.publish();
    }
}
