//! Replies → writer: a bounded channel for one client.
//!
//! In: the replies of the coordinator, by [`OutboxSender::try_send`], which never waits. Out: the same
//! replies for the writer, by [`OutboxReceiver::poll_next`]. The channel is measured in lines and
//! bytes, not in slots, so that it costs nothing while it is empty, and a batch of replies is one entry.
//!
//! The lock is held for a few moves at a time and never across an await.

use std::{
    io,
    ops::{AddAssign, Range},
    sync::{Arc, MutexGuard},
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;

use crate::{lock::Lock, shared::limits::Limits};

/// An amount of reply lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

impl Size {
    /// Whether this much is an outbox-full.
    pub(crate) fn is_full(&self, limits: &Limits) -> bool {
        self.lines >= limits.outbox_lines || self.bytes >= limits.outbox_bytes
    }

    /// How much of an outbox-full this is: of its lines or of its bytes, whichever is more.
    pub(crate) fn fill(&self, limits: &Limits) -> f64 {
        let lines = self.lines as f64 / limits.outbox_lines as f64;
        let bytes = self.bytes as f64 / limits.outbox_bytes as f64;
        lines.max(bytes)
    }

    /// The larger one of each.
    pub(crate) fn max(self, other: Size) -> Size {
        Size {
            lines: self.lines.max(other.lines),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, more: Size) {
        self.lines += more.lines;
        self.bytes += more.bytes;
    }
}

/// Encoded lines on their way to a client.
pub(crate) enum Chunk {
    /// What is for this client alone.
    Own(Vec<u8>),
    /// A part of what other clients get as well.
    Shared(Arc<Vec<u8>>, Range<usize>),
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(bytes) => bytes,
            Chunk::Shared(bytes, part) => &bytes[part.clone()],
        }
    }
}

/// Mostly a single chunk, which then needs no list. None of them is empty.
pub(crate) type Chunks = SmallVec<[Chunk; 1]>;

/// To share less than this, in a list of chunks, costs more than to copy it.
const SHARED_BYTES: usize = 128;

pub(crate) fn push_chunk(chunks: &mut Chunks, chunk: Chunk) {
    let small = chunk.bytes().len() < SHARED_BYTES;
    match (chunks.last_mut(), chunk) {
        (_, chunk) if chunk.bytes().is_empty() => {}
        (Some(Chunk::Own(last)), Chunk::Own(mut more)) => last.append(&mut more),
        (Some(Chunk::Own(last)), chunk) if small => last.extend_from_slice(chunk.bytes()),
        (Some(_), chunk) if small => chunks.push(Chunk::Own(chunk.bytes().to_vec())),
        (_, chunk) => chunks.push(chunk),
    }
}

/// What stands in an outbox: queued, or taken by the writer and not yet in the socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Everything, control lines too.
    pub(crate) all: Size,
    /// The control lines alone.
    pub(crate) control: Size,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Usage) {
        self.all += more.all;
        self.control += more.control;
    }
}

/// How an outbox stands, for the coordinator to decide by. The usage can only shrink behind
/// its back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutboxStatus {
    pub(crate) usage: Usage,
    /// The socket has taken nothing for the stall time.
    pub(crate) stalled: bool,
    /// Nothing will be delivered any more.
    pub(crate) closed: bool,
}

impl OutboxStatus {
    /// Whether an outbox takes events. The rule is that for replies with one difference: no command
    /// waits for a watcher. So while the watcher reads, only the bytes are bounded, not the lines.
    pub(crate) fn accepts_events(&self, limits: &Limits) -> bool {
        let all = self.usage.all;
        all.bytes < limits.outbox_bytes && !(self.stalled && all.is_full(limits))
    }
}

/// What comes after the replies that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The client's next batch may come.
    ReadMore,
    /// The rest of this batch waits for room.
    AwaitCapacity,
    /// The rest of this batch goes on of itself.
    Continue,
    /// No more replies: the end of the line.
    Finish,
    /// The client is to be cut off, what is queued with it.
    Abort,
}

/// How an outbox stands after replies were sent.
pub(crate) struct Sent {
    /// With [`Next::AwaitCapacity`]: the connection will send an `OutboxReady`. Otherwise there is room by now,
    /// or nothing is delivered any more.
    pub(crate) awaits_capacity: bool,
    pub(crate) size: Size,
}

struct Outbox {
    limits: Arc<Limits>,
    state: Lock<State>,
}

#[derive(Default)]
struct State {
    /// Encoded replies that the writer has not taken yet.
    queue: Chunks,
    queued: Usage,
    /// What the writer took and the socket has not, so far.
    in_flight: Usage,
    stalled: bool,
    /// The coordinator waits for room.
    notify_capacity: bool,
    /// The coordinator has handled the batch that was sent to it.
    next_batch: bool,
    /// The server is closing: the client's input ends here.
    closing: bool,
    end: SendState,
    /// The task of the connection.
    waker: Option<Waker>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum SendState {
    #[default]
    Open,
    /// Nothing follows what is queued.
    Draining,
    /// What is queued doesn't matter any more.
    Aborted,
    /// The socket takes no more.
    Closed,
}

impl State {
    /// Ends the way out; what is queued goes.
    fn end_with(&mut self, end: SendState) {
        self.end = end;
        self.queue = Chunks::new();
        self.queued = Usage::default();
        self.in_flight = Usage::default();
        self.notify_capacity = false;
    }

    fn usage(&self) -> Usage {
        let mut usage = self.queued;
        usage += self.in_flight;
        usage
    }

    fn is_delivered(&self) -> bool {
        self.queue.is_empty() && self.in_flight.all.bytes == 0
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        match &self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock()
    }

    /// Changes the state, then wakes the task of the connection, outside the lock.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

/// An outbox within these limits.
pub(crate) fn outbox(limits: Arc<Limits>) -> (OutboxSender, OutboxReceiver) {
    let state = Lock::default();
    let outbox = Arc::new(Outbox { limits, state });
    (OutboxSender(outbox.clone()), OutboxReceiver(outbox))
}

/// The coordinator's side.
#[derive(Clone)]
pub(crate) struct OutboxSender(Arc<Outbox>);

impl OutboxSender {
    pub(crate) fn status(&self) -> OutboxStatus {
        let state = self.0.state();
        OutboxStatus {
            usage: state.usage(),
            stalled: state.stalled,
            closed: matches!(state.end, SendState::Aborted | SendState::Closed),
        }
    }

    /// Queues replies without waiting and says what comes after them.
    ///
    /// The caller has asked for the [`status`](Self::status) before. If nothing is delivered any more, the
    /// replies are dropped here.
    pub(crate) fn try_send(&self, replies: Chunks, usage: Usage, then: Next) -> Sent {
        self.0.change(|state| {
            let mut waits = false;
            if state.end == SendState::Open {
                if state.queue.is_empty() {
                    state.queue = replies;
                } else {
                    for chunk in replies {
                        push_chunk(&mut state.queue, chunk);
                    }
                }
                state.queued += usage;
            }
            match then {
                Next::ReadMore => state.next_batch = true,
                Next::AwaitCapacity => {
                    let is_full = state.usage().all.is_full(&self.0.limits);
                    waits = state.end == SendState::Open && is_full && !state.stalled;
                    state.notify_capacity |= waits;
                }
                Next::Continue => {}
                Next::Finish if state.end == SendState::Open => state.end = SendState::Draining,
                Next::Finish => {}
                Next::Abort => state.end_with(SendState::Aborted),
            }
            Sent {
                awaits_capacity: waits,
                size: state.usage().all,
            }
        })
    }

    /// The connection will send an `OutboxReady` when there is room.
    pub(crate) fn request_capacity(&self) {
        self.0
            .change(|state| state.notify_capacity = state.end == SendState::Open);
    }

    /// The client's input ends here, because the server is closing.
    pub(crate) fn announce_shutdown(&self) {
        self.0.change(|state| state.closing = true);
    }
}

/// What the writer has to do next.
pub(crate) enum Delivery {
    /// Write these.
    Write(Chunks),
    /// Notify the coordinator that there is room: it asked for that.
    NotifyCapacity,
    /// Nothing: everything is delivered and nothing follows.
    Finish,
    /// Nothing: the socket takes no more.
    Closed,
    /// Nothing: the coordinator cut the client off.
    Abort,
}

/// The connection's side. One task polls all of it.
pub(crate) struct OutboxReceiver(Arc<Outbox>);

impl OutboxReceiver {
    /// Takes everything that is queued. What was taken before counts as delivered now.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Delivery> {
        let mut state = self.0.state();
        state.in_flight = Usage::default();
        if state.end == SendState::Aborted {
            Poll::Ready(Delivery::Abort)
        } else if state.end == SendState::Closed {
            Poll::Ready(Delivery::Closed)
        } else if state.notify_capacity && !state.queued.all.is_full(&self.0.limits) {
            state.notify_capacity = false;
            Poll::Ready(Delivery::NotifyCapacity)
        } else if !state.queue.is_empty() {
            state.in_flight = std::mem::take(&mut state.queued);
            Poll::Ready(Delivery::Write(std::mem::take(&mut state.queue)))
        } else if state.end == SendState::Draining {
            Poll::Ready(Delivery::Finish)
        } else {
            state.wait(cx)
        }
    }

    /// The socket refuses bytes, or takes some again. Says whether the coordinator
    /// has to be notified.
    #[must_use]
    pub(crate) fn set_stalled(&self, stalled: bool) -> bool {
        let mut state = self.0.state();
        state.stalled = stalled;
        stalled && std::mem::take(&mut state.notify_capacity)
    }

    /// Waits until the coordinator has handled the last batch. Says whether the server is
    /// closing; an error means that the client is cut off.
    pub(crate) fn poll_read_permit(&self, cx: &Context<'_>) -> Poll<io::Result<bool>> {
        let mut state = self.0.state();
        if state.end == SendState::Aborted {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        } else if std::mem::take(&mut state.next_batch) {
            Poll::Ready(Ok(state.closing))
        } else {
            state.wait(cx)
        }
    }

    /// Is ready when the server shuts down.
    pub(crate) fn poll_shutdown(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_until(cx, |state| state.closing)
    }

    /// Is ready when the coordinator has cut the client off.
    pub(crate) fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_until(cx, |state| state.end == SendState::Aborted)
    }

    fn poll_until(&self, cx: &Context<'_>, condition: fn(&State) -> bool) -> Poll<()> {
        let mut state = self.0.state();
        match condition(&state) {
            true => Poll::Ready(()),
            false => state.wait(cx),
        }
    }

    /// The socket has taken so many bytes of what was taken last.
    pub(crate) fn count_written(&self, bytes: usize) {
        let mut state = self.0.state();
        let in_flight = &mut state.in_flight.all.bytes;
        *in_flight = in_flight.saturating_sub(bytes);
    }

    /// Whether everything sent so far is in the socket.
    pub(crate) fn is_delivered(&self) -> bool {
        self.0.state().is_delivered()
    }

    /// Whether the writer has nothing more to do.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.0.state();
        state.end != SendState::Open && state.is_delivered()
    }

    /// The socket takes no more, for good: from now on, what is sent is dropped. Says whether
    /// the coordinator waits for room.
    #[must_use]
    pub(crate) fn close(&self) -> bool {
        let mut state = self.0.state();
        let notify_capacity = state.notify_capacity;
        if state.end != SendState::Aborted {
            state.end_with(SendState::Closed);
        }
        notify_capacity
    }
}
