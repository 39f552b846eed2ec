//! Commands → lines, and lines → their answers: the framing, without any I/O.
//!
//! Commands go out in *groups*: any number of writes, then at most one command that is answered by
//! lines of its own, then a `Sync` with the number of its own line for a token. So whatever comes
//! before the reply to that Sync belongs to that one command, or is an error that names its line.

use std::{collections::VecDeque, sync::Arc, vec};

use super::{
    connection::{Fault, Request},
    promise::Promise,
    watch::{Mailbox, Subject, Watches},
};
use crate::{
    Error, Stats,
    protocol::{Code, Command, Operation, Reply},
};

/// What is encoded before it is written. A command is never cut, so it may be one command more.
const WRITE_BYTES: usize = 64 * 1024;

/// Commands that have been sent and not been answered. More would wait in the server's socket, to
/// no gain: this many fill a read of the server.
const IN_FLIGHT: usize = 4096;

/// The most that the lines of one reply may take: what a server sends unless it was built to send
/// more. Without a bound, a server gone mad would fill the memory.
pub(super) const MAX_REPLY: usize = 64 << 20;

/// How much of a server's words is kept with an error.
const MAX_WORDS: usize = 1024;

/// One thing to ask of the server.
pub(super) enum Ask {
    /// `Put`, `Delete`, `Update` or `Unwatch`: a whole line that has no reply.
    Write(Vec<u8>),
    Get {
        key: Vec<u8>,
        /// The changes up to the reply are contained in it; those told here are forgotten.
        snapshot: Option<Arc<Mailbox>>,
    },
    /// Nothing but the fence.
    Sync,
    Stats,
    Watch {
        subject: Subject,
        mailbox: Arc<Mailbox>,
    },
}

/// What the server said to one [`Ask`].
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Values(Vec<Vec<u8>>),
    /// No values, but it can't be told which changes this came before. Ask again.
    Unsure,
    Stats(Box<Stats>),
}

pub(super) type Answers = Vec<Result<Answer, Error>>;

/// What one caller asked for in one go.
struct Batch {
    rest: vec::IntoIter<Ask>,
    /// Those that were sent.
    sent: usize,
    answers: Answers,
    /// `None` where nobody wants to hear of it.
    promise: Option<Promise<Answers>>,
}

impl Batch {
    fn is_complete(&self) -> bool {
        self.rest.len() == 0 && self.answers.len() == self.sent
    }

    fn is_abandoned(&self) -> bool {
        self.promise.as_ref().is_some_and(Promise::is_abandoned)
    }

    fn finish(self) {
        if let Some(promise) = self.promise {
            promise.keep(self.answers);
        }
    }
}

struct Group {
    /// Its lines: from this to the one of its Sync.
    first: u64,
    fence: u64,
    /// How many commands it answers.
    commands: usize,
    /// Its last command, where that has lines of its own for an answer.
    query: Query,
}

enum Query {
    None,
    Get {
        key: Vec<u8>,
        snapshot: Option<Arc<Mailbox>>,
    },
    Stats,
    Watch {
        subject: Subject,
        mailbox: Arc<Mailbox>,
    },
}

/// What has come for the first group so far.
#[derive(Default)]
struct Coming {
    values: Vec<Vec<u8>>,
    bytes: usize,
    stats: Option<Stats>,
    watching: bool,
    /// In the order of their lines.
    errors: VecDeque<(u64, Error)>,
}

#[derive(Default)]
pub(super) struct Flow {
    /// Answered in this order. Only the last may have anything left to send.
    batches: VecDeque<Batch>,
    /// The line of each command in flight; 0 for one that has no line but the fence.
    in_flight: VecDeque<u64>,
    groups: VecDeque<Group>,
    /// Lines sent on this connection.
    lines: u64,
    /// The line of the last fence, and the number of commands behind it.
    last_fence: u64,
    unfenced: usize,
    coming: Coming,
    /// What the server said last, where that was a refusal.
    refusal: Option<Fault>,
    /// It never let this connection in.
    shut_out: bool,
    watches: Watches,
}

/// The way out.
impl Flow {
    /// Whether there may be something to encode besides what is in `out`.
    pub(super) fn has_room(&self, out: &[u8]) -> bool {
        out.len() < WRITE_BYTES && self.in_flight.len() < IN_FLIGHT
    }

    /// Whether a batch is not sent to its end.
    pub(super) fn is_sending(&self) -> bool {
        self.batches.back().is_some_and(|last| last.rest.len() > 0)
    }

    /// Takes a request, all of those before it being sent.
    pub(super) fn accept(&mut self, request: Request) {
        self.batches.push_back(Batch {
            rest: request.asks.into_iter(),
            sent: 0,
            answers: Vec::new(),
            promise: Some(request.promise),
        });
    }

    /// A watcher has gone.
    pub(super) fn leave(&mut self, subject: &Subject, mailbox: &Arc<Mailbox>) {
        if self.watches.leave(subject, mailbox) {
            let mut line = Vec::new();
            Command::Unwatch(subject.topic()).encode(&mut line);
            self.batches.push_back(Batch {
                rest: vec![Ask::Write(line)].into_iter(),
                sent: 0,
                answers: Vec::new(),
                promise: None,
            });
        }
    }

    /// Encodes the next command of the last batch, if it has one.
    pub(super) fn encode_next(&mut self, out: &mut Vec<u8>) {
        let Some(batch) = self.batches.back_mut() else {
            return;
        };
        if batch.is_abandoned() {
            // What was sent is answered to nobody; the rest is not sent.
            batch.rest = Vec::new().into_iter();
            if batch.is_complete() {
                self.batches.pop_back();
            }
            return;
        }
        let Some(ask) = batch.rest.next() else {
            return;
        };
        let ask = match ask {
            // The watcher has gone since.
            Ask::Watch { mailbox, .. } if !mailbox.enter() => Ask::Sync,
            ask => ask,
        };
        batch.sent += 1;
        self.unfenced += 1;
        let has_line = !matches!(ask, Ask::Sync);
        self.lines += u64::from(has_line);
        self.in_flight
            .push_back(if has_line { self.lines } else { 0 });
        let query = match ask {
            Ask::Write(line) => {
                out.extend_from_slice(&line);
                return;
            }
            Ask::Sync => return,
            Ask::Get { key, snapshot } => {
                Command::Operation(Operation::Get { key: &key }).encode(out);
                Query::Get { key, snapshot }
            }
            Ask::Stats => {
                Command::Stats.encode(out);
                Query::Stats
            }
            Ask::Watch { subject, mailbox } => {
                Command::Watch(subject.topic()).encode(out);
                self.watches.enter(&subject, &mailbox);
                Query::Watch { subject, mailbox }
            }
        };
        self.end_group(query, out);
    }

    /// Puts a fence behind what was encoded.
    pub(super) fn fence(&mut self, out: &mut Vec<u8>) {
        if self.unfenced > 0 {
            self.end_group(Query::None, out);
        }
    }

    fn end_group(&mut self, query: Query, out: &mut Vec<u8>) {
        self.lines += 1;
        let fence = self.lines;
        let commands = std::mem::take(&mut self.unfenced);
        let token = fence.to_string();
        Command::Sync {
            token: Some(token.as_bytes()),
        }
        .encode(out);
        self.groups.push_back(Group {
            first: std::mem::replace(&mut self.last_fence, fence) + 1,
            fence,
            commands,
            query,
        });
        if self.groups.len() == 1 {
            self.begin_group();
        }
    }
}

/// The way in.
impl Flow {
    /// Whether the server has anything to say.
    pub(super) fn expects(&self) -> bool {
        !self.groups.is_empty() || !self.watches.is_empty()
    }

    /// What comes next is of one read.
    pub(super) fn begin_read(&mut self) {
        self.watches.begin_read();
    }

    /// Whether the last read had anything for a watcher.
    pub(super) fn has_told(&self) -> bool {
        self.watches.has_told()
    }

    /// Takes a line of the server. After an error, nothing that comes has a meaning.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let reply = Reply::parse(line).map_err(|_| Fault::Protocol("a line that is no reply"))?;
        if matches!(
            reply,
            Reply::Value { .. } | Reply::Sync { .. } | Reply::Stats(_) | Reply::Watch(_)
        ) {
            // It goes on.
            self.refusal = None;
        }
        match reply {
            Reply::Value { key, value } => self.value(key, value),
            Reply::Sync { dropped, token } => {
                let group = self.groups.front();
                match group.filter(|group| token == group.fence.to_string().as_bytes()) {
                    Some(_) => self.finish_group(dropped, None),
                    None => Err(Fault::Protocol("a Sync's reply out of turn")),
                }
            }
            Reply::Stats(counters) => match self.groups.front() {
                Some(Group {
                    query: Query::Stats,
                    ..
                }) if self.coming.stats.is_none() => {
                    let stats = Stats::parse(counters);
                    let stats = stats.map_err(|_| Fault::Protocol("counters that are none"))?;
                    self.coming.stats = Some(stats);
                    Ok(())
                }
                _ => Err(Fault::Protocol("counters out of turn")),
            },
            Reply::Error {
                line,
                code,
                message,
            } => {
                let message = &message[..message.len().min(MAX_WORDS)];
                self.error(line, code, String::from_utf8_lossy(message).into_owned())
            }
            Reply::Watch(topic) => match self.groups.front() {
                Some(Group {
                    query: Query::Watch { subject, mailbox },
                    ..
                }) if subject.topic() == topic && !self.coming.watching => {
                    self.coming.watching = true;
                    self.watches.begin(subject, mailbox);
                    Ok(())
                }
                _ => Err(Fault::Protocol("a watch out of turn")),
            },
            Reply::Change(change) => {
                self.watches.tell(change);
                Ok(())
            }
            Reply::Missed(changes) => {
                self.watches.missed(changes);
                Ok(())
            }
            // A newer server may say more than this client understands.
            Reply::Other(_) => Ok(()),
        }
    }

    fn value(&mut self, asked: &[u8], value: &[u8]) -> Result<(), Fault> {
        let Some(Group {
            query: Query::Get { key, snapshot },
            ..
        }) = self.groups.front()
        else {
            return Err(Fault::Protocol("a value out of turn"));
        };
        if key != asked {
            return Err(Fault::Protocol("a value of another key"));
        }
        if let (true, Some(mailbox)) = (self.coming.values.is_empty(), snapshot) {
            mailbox.forget();
        }
        self.coming.bytes += asked.len() + value.len() + 2;
        if self.coming.bytes > MAX_REPLY {
            return Err(Fault::Protocol("a reply without end"));
        }
        self.coming.values.push(value.to_vec());
        Ok(())
    }

    fn error(&mut self, line: u64, code: Code, message: String) -> Result<(), Fault> {
        let refusal = Fault::Refused { code, message };
        // After the other codes, a server goes on.
        let may_end = !matches!(code, Code::Unknown | Code::Store | Code::Full);
        self.refusal = may_end.then(|| refusal.clone());
        if line == 0 {
            self.shut_out = matches!(code, Code::Full | Code::Unauthorized);
            // Of one that is not known it can't be told what it ends, if anything.
            return match code {
                Code::Other => Ok(()),
                _ => Err(refusal),
            };
        }
        let last = self.coming.errors.back().map_or(0, |(line, _)| *line);
        let group = self.groups.front().filter(|group| line >= group.first);
        match group {
            Some(group) if line == group.fence => self.finish_group(0, Some(&refusal)),
            Some(group) if line < group.fence && line > last => {
                self.coming.errors.push_back((line, refusal.to_error()));
                Ok(())
            }
            _ => Err(Fault::Protocol("an error out of turn")),
        }
    }

    /// The first group's fence is answered; or refused, and then nothing confirms the commands
    /// before it.
    fn finish_group(&mut self, dropped: u64, refused: Option<&Fault>) -> Result<(), Fault> {
        let Some(group) = self.groups.pop_front() else {
            return Ok(());
        };
        let mut coming = std::mem::take(&mut self.coming);
        for left in (0..group.commands).rev() {
            let line = self.in_flight.pop_front().unwrap_or_default();
            let error = match coming.errors.front() {
                Some((first, _)) if *first == line => coming.errors.pop_front(),
                _ => None,
            };
            let answer = match (error, refused) {
                (Some((_, error)), _) => Err(error),
                // A command that is nothing but the fence.
                (None, Some(refusal)) if line == 0 => Err(refusal.to_error()),
                (None, Some(refusal)) => Err(refusal.unconfirmed()),
                (None, None) if left == 0 => group.query.answer(&mut coming, dropped)?,
                (None, None) => Ok(Answer::Done),
            };
            self.deliver(answer);
        }
        self.begin_group();
        Ok(())
    }

    fn begin_group(&mut self) {
        if let Some(Group {
            query:
                Query::Get {
                    snapshot: Some(mailbox),
                    ..
                },
            ..
        }) = self.groups.front()
        {
            // All that was told so far stands before a fence that stands before the Get.
            mailbox.forget();
        }
    }

    fn deliver(&mut self, answer: Result<Answer, Error>) {
        let Some(batch) = self.batches.front_mut() else {
            return;
        };
        batch.answers.push(answer);
        if batch.is_complete() {
            if let Some(batch) = self.batches.pop_front() {
                batch.finish();
            }
        }
    }

    /// Why the connection has ended. A server that ends it says why in its last line.
    pub(super) fn reason(&mut self, fault: Fault) -> Fault {
        match (fault, self.refusal.take()) {
            (Fault::Disconnected(_), Some(refusal)) => refusal,
            (fault, _) => fault,
        }
    }

    /// The connection is over: everything that waits for it hears so.
    pub(super) fn end(&mut self, fault: &Fault) {
        if matches!(fault, Fault::Protocol(_)) {
            // Then nobody knows what any of its words answered.
            self.coming.errors.clear();
        }
        while let Some(line) = self.in_flight.pop_front() {
            let own = self.coming.errors.front();
            let error = match own.filter(|(first, _)| *first == line) {
                Some(_) => self.coming.errors.pop_front().map(|(_, error)| error),
                None if self.may_be_applied(line) => Some(fault.unconfirmed()),
                None => None,
            };
            self.deliver(Err(error.unwrap_or_else(|| fault.to_error())));
        }
        self.groups.clear();
        for mut batch in self.batches.drain(..) {
            let rest = batch.sent - batch.answers.len() + batch.rest.len();
            batch.rest = Vec::new().into_iter();
            let faults = std::iter::repeat_with(|| Err(fault.to_error()));
            batch.answers.extend(faults.take(rest));
            batch.finish();
        }
        self.watches.end(fault);
    }

    /// Whether a command that was sent and has no answer may be applied. That the server refuses
    /// the connection says nothing of the lines that it had taken before.
    fn may_be_applied(&self, line: u64) -> bool {
        let is_query =
            |group: &Group| line + 1 == group.fence && !matches!(group.query, Query::None);
        line > 0 && !self.shut_out && !self.groups.iter().any(is_query)
    }
}

impl Query {
    /// What came for it before the fence. `Err` where that can't be.
    fn answer(&self, coming: &mut Coming, dropped: u64) -> Result<Result<Answer, Error>, Fault> {
        let answer = match self {
            Query::None => Answer::Done,
            _ if dropped > 0 => return Ok(Err(Error::RepliesDropped { lines: dropped })),
            Query::Get { snapshot, .. } => match snapshot {
                Some(mailbox) if coming.values.is_empty() && !mailbox.is_plain() => Answer::Unsure,
                _ => Answer::Values(std::mem::take(&mut coming.values)),
            },
            Query::Stats => {
                let stats = coming.stats.take();
                Answer::Stats(stats.ok_or(Fault::Protocol("no counters"))?.into())
            }
            Query::Watch { .. } if coming.watching => Answer::Done,
            Query::Watch { .. } => return Err(Fault::Protocol("no answer to a watch")),
        };
        Ok(Ok(answer))
    }
}
