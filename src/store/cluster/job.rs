//! A batch → requests: what goes to the nodes for it, and what came back.

use std::{ops::Range, sync::Arc, task::Waker, time::Instant};

use smallvec::SmallVec;

use super::{
    layout::Layout,
    resp,
    sequence::Numbers,
    slots::{self, BUCKETS},
};
use crate::{
    protocol::{Operation, Write},
    store::{Answer, Batch},
};

/// Commands in one script. A node serves nobody else while it runs one.
///
/// Of a client that watches, all `Get`s of a bucket are in one script, which may be longer for that. There are
/// at most 128 `Get`s in a batch, and in a batch of such a client no write is behind one, so it is bounded as
/// well.
const SCRIPT_COMMANDS: usize = 64;

/// Bytes of a command as it is sent, for most.
const COMMAND_BYTES: usize = 80;

/// Bytes of a reply, for most.
const REPLY_BYTES: usize = 40;

/// Bytes of a node's words that a client sees.
const REFUSAL_BYTES: usize = 256;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To the node that has the bucket.
    Bucket(u16),
    /// To this node, whatever it has.
    Node(usize),
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No node has it.
    Waiting,
    /// Its bytes may have been written.
    Sent(usize),
    /// It was applied, and waits for replicas.
    Applied,
    Settled,
}

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    #[default]
    None,
    /// The reply is these bytes of [`Job::replies`].
    Reply(Range<usize>),
    /// The same, but too few replicas have its writes.
    Unreplicated(Range<usize>),
    /// It left nothing behind.
    Failed(Arc<str>),
    /// Whether it was applied is not known.
    Unconfirmed(Arc<str>),
}

/// One Redis command.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) route: Route,
    pub(super) is_write: bool,
    has_get: bool,
    /// Otherwise an `LRANGE`.
    pub(super) is_script: bool,
    /// Its bytes in [`Job::bytes`].
    pub(super) bytes: Range<usize>,
    pub(super) state: State,
    pub(super) outcome: Outcome,
    /// The node that an `ASK` has named.
    pub(super) ask: Option<usize>,
    /// Times that it was refused.
    pub(super) refusals: u32,
    /// It is not sent again before this.
    pub(super) retry_at: Option<Instant>,
    /// Keys of its commands, as hashes: two requests with none in common may change places.
    pub(super) keys: SmallVec<[u64; 1]>,
}

/// The requests of a batch.
#[derive(Default)]
pub(super) struct Job {
    /// Jobs are numbered in the order submitted.
    pub(super) number: u64,
    pub(super) requests: Vec<Request>,
    /// The requests as they are sent.
    pub(super) bytes: Vec<u8>,
    /// Replies as they came.
    pub(super) replies: Vec<u8>,
    /// The request of each command.
    pub(super) commands: Vec<u32>,
    /// Requests that are not settled.
    pub(super) unsettled: usize,
    /// Requests that stand in a queue.
    pub(super) queued: usize,
    /// Its future was dropped, or has taken the result.
    pub(super) abandoned: bool,
    pub(super) waker: Option<Waker>,
}

impl Request {
    fn new(route: Route, is_write: bool, bytes: Range<usize>) -> Self {
        Self {
            route,
            is_write,
            has_get: false,
            is_script: false,
            bytes,
            state: State::Waiting,
            outcome: Outcome::None,
            ask: None,
            refusals: 0,
            retry_at: None,
            keys: SmallVec::new(),
        }
    }

    pub(super) fn shares_key(&self, other: &Self) -> bool {
        self.keys.iter().any(|key| other.keys.contains(key))
    }
}

impl Job {
    /// The requests of these commands.
    ///
    /// A `Get` is an `LRANGE`. Other commands are a script; if one batch has several commands of a bucket,
    /// among them a write, they are in one script, so that nothing can come between them.
    ///
    /// Of a bucket that is watched by the client, all commands are in scripts, so that they have numbers, and
    /// all `Get`s in the same one, so that they have the same.
    pub(super) fn new(
        operations: &[Operation<'_>],
        layout: &Layout,
        max_values: usize,
        is_watched: impl Fn(u16) -> bool,
    ) -> Self {
        let mut job = Self::default();
        job.commands.reserve(operations.len());
        job.requests.reserve(operations.len());
        job.bytes.reserve(operations.len() * COMMAND_BYTES);
        job.replies.reserve(operations.len() * REPLY_BYTES);
        // The last request of each bucket.
        let mut last = [u32::MAX; BUCKETS as usize];
        for &operation in operations {
            let bucket = slots::bucket(operation.key());
            let is_write = matches!(operation, Operation::Write(_));
            let last = &mut last[usize::from(bucket)];
            let may_join = job.requests.get(*last as usize).is_some_and(|request| {
                let is_short = request.keys.len() < SCRIPT_COMMANDS;
                match is_watched(bucket) {
                    true => is_short || request.has_get,
                    false => is_short && (is_write || request.is_write),
                }
            });
            if !may_join {
                *last = job.requests.len() as u32;
                let request = Request::new(Route::Bucket(bucket), false, 0..0);
                job.requests.push(request);
            }
            let request = &mut job.requests[*last as usize];
            request.is_write |= is_write;
            request.has_get |= !is_write;
            request.keys.push(layout.hash(operation.key()));
            job.commands.push(*last);
        }
        let mut script: SmallVec<[Operation<'_>; 4]> = SmallVec::new();
        for (at, (&operation, &number)) in operations.iter().zip(&job.commands).enumerate() {
            let request = &mut job.requests[number as usize];
            let Route::Bucket(bucket) = request.route else {
                continue;
            };
            if !request.bytes.is_empty() {
                // It went with the first command of its request.
                continue;
            }
            let start = job.bytes.len();
            match (operation, request.keys.len()) {
                (Operation::Get { key }, 1) if !is_watched(bucket) => {
                    layout.push_get(&mut job.bytes, bucket, key);
                }
                (_, count) => {
                    request.is_script = true;
                    let commands = operations.iter().zip(&job.commands).skip(at);
                    let commands = commands.filter(|&(_, &other)| other == number).take(count);
                    script.clear();
                    script.extend(commands.map(|(&operation, _)| operation));
                    layout.push_script(&mut job.bytes, bucket, &script, max_values);
                }
            }
            request.bytes = start..job.bytes.len();
        }
        job.unsettled = job.requests.len();
        job
    }

    /// Adds a request that changes nothing, to this node.
    pub(super) fn push(&mut self, node: usize, command: &[&[u8]]) {
        let start = self.bytes.len();
        resp::push_command(&mut self.bytes, command);
        let request = Request::new(Route::Node(node), false, start..self.bytes.len());
        self.requests.push(request);
        self.unsettled += 1;
    }

    /// The numbers at which its commands of this bucket took effect, if they are known.
    pub(super) fn numbers(&self, bucket: u16) -> Option<Numbers> {
        let of_bucket = |it: &&Request| it.is_script && it.route == Route::Bucket(bucket);
        let (mut last, mut shown) = (None, None);
        for request in self.requests.iter().filter(of_bucket) {
            let (Outcome::Reply(range) | Outcome::Unreplicated(range)) = &request.outcome else {
                continue;
            };
            let Some(resp::Reply::Array(parts)) = resp::Reply::parse(&self.replies[range.clone()])
            else {
                continue;
            };
            for part in parts {
                let (number, is_get) = match part {
                    resp::Reply::Integer(number) => (Some(number), false),
                    resp::Reply::Array(mut pair) => (pair.next().and_then(|it| it.integer()), true),
                    _ => (None, false),
                };
                let number = number.and_then(|number| u64::try_from(number).ok());
                last = last.max(number);
                if is_get {
                    shown = number;
                }
            }
        }
        let last = last?;
        Some(Numbers {
            last,
            shown: shown.unwrap_or(last),
        })
    }

    /// Answers each command of the batch.
    pub(super) fn answer(&self, batch: &mut Batch) {
        // Where the next command of each script finds its part of the reply.
        let mut parts: Vec<Option<resp::Replies<'_>>> = Vec::new();
        parts.resize_with(self.requests.len(), || None);
        let mut commands = self.commands.iter();
        batch.each(|operation, answer| {
            let Some(&request) = commands.next() else {
                return;
            };
            let request = request as usize;
            let is_get = matches!(operation, Operation::Get { .. });
            let outcome = &self.requests[request].outcome;
            let has_replicas = !matches!(outcome, Outcome::Unreplicated(_));
            let reply = match outcome {
                Outcome::Reply(range) | Outcome::Unreplicated(range) => {
                    resp::Reply::parse(&self.replies[range.clone()])
                }
                Outcome::Failed(reason) => return answer.fail(reason),
                Outcome::Unconfirmed(reason) => return answer.unconfirmed(reason),
                Outcome::None => None,
            };
            if let (Some(resp::Reply::Error(error)), true) = (&reply, is_get) {
                return answer.fail(refusal(error));
            }
            if !self.requests[request].is_script {
                return match reply {
                    Some(resp::Reply::Array(values)) => answer.values(values.values()),
                    _ => answer.fail(MISFIT),
                };
            }
            match reply {
                Some(resp::Reply::Array(array)) => {
                    let part = parts[request].get_or_insert(array).next();
                    answer_part(part, is_get, has_replicas, answer);
                }
                Some(resp::Reply::Error(error)) if leaves_nothing(error) => {
                    answer.fail(refusal(error));
                }
                Some(resp::Reply::Error(error)) => answer.unconfirmed(refusal(error)),
                _ => answer.unconfirmed(MISFIT),
            }
        });
    }
}

pub(super) const FEW_REPLICAS: &str = "too few replicas have it";
const MISFIT: &str = "the cluster gave a reply that does not fit the command";

/// Answers a command of a script.
fn answer_part(
    part: Option<resp::Reply<'_>>,
    is_get: bool,
    has_replicas: bool,
    answer: Answer<'_>,
) {
    match part {
        Some(resp::Reply::Array(mut pair)) if is_get => match pair.nth(1) {
            Some(resp::Reply::Array(values)) => answer.values(values.values()),
            _ => answer.fail(MISFIT),
        },
        Some(resp::Reply::Integer(0)) if !is_get => answer.values_full(),
        Some(resp::Reply::Integer(_)) if !is_get && !has_replicas => {
            answer.unconfirmed(FEW_REPLICAS);
        }
        Some(resp::Reply::Integer(_)) if !is_get => answer.done(),
        Some(resp::Reply::Error(error)) => answer.fail(refusal(error)),
        _ => answer.unconfirmed(MISFIT),
    }
}

/// The code of an error.
pub(super) fn code(error: &[u8]) -> &[u8] {
    error.split(|&byte| byte == b' ').next().unwrap_or_default()
}

/// What clients see of it: the node's words. If these name a key, it is one of the client's own request.
fn refusal(error: &[u8]) -> String {
    let words = error.strip_prefix(b"UNAPPLIED ").unwrap_or(error);
    let words = &words[..words.len().min(REFUSAL_BYTES)];
    let words = String::from_utf8_lossy(words.trim_ascii());
    format!("the cluster refused it: {words}")
}

/// Whether a script that ended with this error has not begun.
fn leaves_nothing(error: &[u8]) -> bool {
    let codes: [&[u8]; 7] = [
        b"UNAPPLIED",
        b"OOM",
        b"MISCONF",
        b"NOREPLICAS",
        b"NOAUTH",
        b"CROSSSLOT",
        b"BUSY",
    ];
    codes.contains(&code(error))
}

/// The letter of a command in the script, and its arguments.
pub(super) fn script_command<'a>(
    operation: &Operation<'a>,
) -> (&'static [u8], [Option<&'a [u8]>; 2]) {
    match *operation {
        Operation::Get { .. } => (b"G", [None, None]),
        Operation::Write(write) => match write {
            Write::Put { value, .. } => (b"P", [Some(value), None]),
            Write::Set { value, .. } => (b"S", [Some(value), None]),
            Write::Remove { value, .. } => (b"R", [Some(value), None]),
            Write::Delete { .. } => (b"D", [None, None]),
            Write::Update { old, new, .. } => (b"U", [Some(old), Some(new)]),
        },
    }
}

const _: () = assert!(
    BUCKETS <= 10_000,
    "a bucket's number has at most four digits"
);

#[cfg(test)]
mod tests {
    use super::*;

    /// However many commands of one key a client that watches it sends at a time, no script has many. All its
    /// `Get`s show the same moment.
    #[test]
    fn scripts_on_what_is_watched_are_bounded() {
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let (key, value) = (&b"k"[..], &b"v"[..]);
        let put = Operation::Write(Write::Put { key, value });
        let mut operations = vec![put; 4000];
        operations.extend([Operation::Get { key }; 128]);
        let job = Job::new(&operations, &layout, usize::MAX, |_| true);
        let gets = |request: &&Request| request.has_get;
        assert_eq!(job.requests.iter().filter(gets).count(), 1);
        assert!(job.requests.iter().all(|request| request.is_script));
        let lengths = job.requests.iter().map(|request| request.keys.len());
        assert_eq!(lengths.clone().sum::<usize>(), operations.len());
        let longest = lengths.max();
        assert!(longest < Some(SCRIPT_COMMANDS + 128), "{longest:?}");
    }
}
