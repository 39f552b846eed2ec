//! Clients come, say something, and leave.

use std::{borrow::Cow, io, sync::Arc};

use super::{Client, Coordinator, Pending, Place, Progress};
use crate::{
    protocol::{Code, push_error},
    server::{
        admission::{Crowded, Newcomer},
        event::{End, Event, Message},
        outbox::{Chunk, Chunks, Content, Load, Outbox, Then},
        peer::Peer,
        session::{self, ENTRY_TIME, Transport},
        waiting::Refusal,
    },
};

impl Coordinator {
    pub(super) fn join(&mut self, newcomer: Newcomer) {
        let Newcomer {
            transport,
            address,
            peer,
        } = newcomer;
        let from = address;
        match self.admission.admit(address, &self.control.limits) {
            Ok(address) => {
                self.stats.active += 1;
                self.came += 1;
                self.journal.joined(self.came, from);
                self.enter(
                    (transport, peer),
                    Arc::new(Outbox::new()),
                    Place::Client { address },
                );
            }
            Err(crowded) => {
                self.journal.refused(crowded, from);
                self.turn_away(transport, crowded);
            }
        }
        self.publish();
    }

    /// Tells a connection why it can't come in, unless as many as may be are being told already.
    fn turn_away(&mut self, transport: Box<dyn Transport>, crowded: Crowded) {
        crowded.count(&mut self.stats);
        if self.admission.begin_parting() {
            let outbox = Arc::new(Outbox::new());
            self.enter((transport, None), outbox.clone(), Place::None);
            self.send_error(&outbox, 0, Code::Full, crowded.message(), Then::Finish);
        }
    }

    fn enter(
        &mut self,
        connection: (Box<dyn Transport>, Option<Arc<Peer>>),
        outbox: Arc<Outbox>,
        place: Place,
    ) {
        let entry = self.clients.vacant_entry();
        let session = session::run(
            connection,
            entry.key(),
            outbox.clone(),
            self.surroundings.clone(),
            matches!(place, Place::Client { .. }),
        );
        entry.insert(Client {
            number: self.came,
            outbox,
            watcher: None,
            progress: Progress::default(),
            pending: None,
            long: false,
            gone: false,
            place,
            _session: self.executor.spawn(session),
        });
    }

    pub(super) fn note(&mut self, Event { client, message }: Event) {
        match message {
            Message::Lines { block, throttled } => {
                if let Some(entry) = self.clients.get_mut(client) {
                    let refuse = self.closing;
                    entry.pending = Some(Pending { block, refuse });
                    self.enqueue(client);
                    self.stats.throttled += u64::from(throttled);
                }
            }
            Message::Resume => {
                self.tell_missed(client);
                self.enqueue(client);
            }
            Message::LetIn { line } => {
                self.stats.commands += 1;
                self.stats.auths += 1;
                if let Some(entry) = self.clients.get_mut(client) {
                    entry.progress.line = line;
                    entry.progress.knows_control_lines = true;
                }
                self.publish();
            }
            Message::NotLetIn(refused) => {
                self.stats.unauthorized += 1;
                if let Some(entry) = self.clients.get_mut(client) {
                    entry.progress.knows_control_lines |= refused.wrong;
                    self.journal.unauthorized(entry.number);
                    let outbox = entry.outbox.clone();
                    let message = refused.message();
                    let code = Code::Unauthorized;
                    self.send_error(&outbox, refused.line, code, message, Then::NextBatch);
                    self.publish();
                }
            }
            Message::End(end) => self.end_input(client, end),
            Message::Left { error } => self.leave(client, error),
        }
    }

    /// Sends a client an error that is not of a round.
    fn send_error(&mut self, outbox: &Outbox, line: u64, code: Code, message: &str, then: Then) {
        let mut reply = Vec::new();
        push_error(&mut reply, line, code, message);
        let load = Load {
            lines: 1,
            bytes: reply.len(),
        };
        let content = Content {
            all: load,
            control: load,
        };
        self.stats.errors += 1;
        self.stats.lines_queued += 1;
        let chunks = Chunks::from_iter([Chunk::Own(reply)]);
        outbox.try_send(chunks, content, then, &self.control.limits);
    }

    /// No more commands will come: after the last reply comes the end of the stream.
    fn end_input(&mut self, key: usize, end: End) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        self.journal.ended(client.number, end);
        let outbox = client.outbox.clone();
        let line = client.progress.line + 1;
        let knows_control_lines = client.progress.knows_control_lines;
        let watcher = client.watcher.take();
        if let Some(watcher) = watcher {
            // Nothing follows, so this is the last it can be told.
            if let Some(missed) = self.watches.take_missed(watcher) {
                self.send_missed(&outbox, missed);
            }
            self.watches.leave(watcher);
        }
        let limits = &self.control.limits;
        let (line, code, message): (_, _, Cow<'_, str>) = match end {
            // The last line says why the connection ends, to a client that knows such lines.
            End::Closing if knows_control_lines => (
                0,
                Code::Closing,
                Refusal::Closing.message(limits).to_string().into(),
            ),
            End::Eof | End::Closing => {
                outbox.try_send(Chunks::new(), Content::default(), Then::Finish, limits);
                return self.publish();
            }
            End::Partial => {
                let message = "the input ended within a line; it was not applied";
                (line, Code::Malformed, message.into())
            }
            End::SlowLine => {
                self.stats.slow_lines += 1;
                let message = format!("the line took longer than {:?}", limits.line_timeout);
                (line, Code::TooLong, message.into())
            }
            End::Foreign { foreign, line } => (line, Code::Malformed, foreign.message().into()),
            End::Unread => {
                self.stats.idle += 1;
                return self.publish();
            }
            End::Idle => {
                self.stats.idle += 1;
                let message = format!("nothing has moved here for {:?}", limits.idle_timeout);
                (0, Code::Closing, message.into())
            }
            End::NotLetIn(refused) => {
                self.stats.unauthorized += 1;
                (refused.line, Code::Unauthorized, refused.message().into())
            }
            End::Late => {
                self.stats.unauthorized += 1;
                let message = format!("Auth:secret has not come within {ENTRY_TIME:?}");
                (0, Code::Unauthorized, message.into())
            }
        };
        self.send_error(&outbox, line, code, &message, Then::Finish);
        self.publish();
    }

    /// The session has ended. Commands that it had read are still applied.
    fn leave(&mut self, key: usize, error: Option<io::Error>) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if matches!(client.place, Place::Client { .. }) {
            self.journal.left(client.number, error);
        }
        client.gone = true;
        if client.pending.is_some() {
            self.enqueue(key);
        } else {
            self.remove(key);
        }
    }

    pub(super) fn remove(&mut self, key: usize) {
        let client = self.clients.remove(key);
        if let Some(watcher) = client.watcher {
            self.watches.leave(watcher);
        }
        match client.place {
            Place::Client { address } => {
                self.admission.leave(address);
                self.stats.active -= 1;
                self.stats.dropped += 1;
            }
            Place::None => self.admission.end_parting(),
        }
        self.publish();
    }
}
