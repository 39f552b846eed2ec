//! Replies → writer: a bounded channel for one client.
//!
//! It is measured in lines and bytes, not in slots, so that an idle client's costs nothing and a
//! batch of replies is one entry. The coordinator sends with [`Outbox::try_send`], which never
//! waits; the client's session receives.
//!
//! The lock is held for a few moves at a time and never across an await.

use std::{
    io,
    ops::{AddAssign, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;

use super::Limits;

/// An amount of reply lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) lines: usize,
    pub(super) bytes: usize,
}

impl Load {
    /// Whether this much is an outbox-full.
    pub(super) fn fills(&self, limits: &Limits) -> bool {
        self.lines >= limits.outbox_lines || self.bytes >= limits.outbox_bytes
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, more: Load) {
        self.lines += more.lines;
        self.bytes += more.bytes;
    }
}

/// Encoded lines on their way to a client.
pub(super) enum Chunk {
    /// What is for this client alone.
    Own(Vec<u8>),
    /// A part of what other clients get as well.
    Shared(Arc<Vec<u8>>, Range<usize>),
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(bytes) => bytes,
            Chunk::Shared(bytes, part) => &bytes[part.clone()],
        }
    }
}

/// Mostly a single chunk, which then needs no list. None of them is empty.
pub(super) type Chunks = SmallVec<[Chunk; 1]>;

/// To share less than this, in a list of chunks, costs more than to copy it.
const SHARED_BYTES: usize = 128;

pub(super) fn push_chunk(chunks: &mut Chunks, chunk: Chunk) {
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
pub(super) struct Content {
    /// Everything, control lines too.
    pub(super) all: Load,
    /// The control lines alone.
    pub(super) control: Load,
}

impl AddAssign for Content {
    fn add_assign(&mut self, more: Content) {
        self.all += more.all;
        self.control += more.control;
    }
}

/// How an outbox stands, for the coordinator to decide by. Room can only grow behind its back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub(super) content: Content,
    /// The socket has taken nothing for the stall time.
    pub(super) refusing: bool,
    /// Nothing will be delivered any more.
    pub(super) gone: bool,
}

impl Room {
    /// Whether an outbox takes events, which is by the rule for replies but for one thing: nobody
    /// waits for a watcher. So while it reads, not the number of lines is bounded, only the bytes.
    pub(super) fn lets_events_in(&self, limits: &Limits) -> bool {
        let all = self.content.all;
        all.bytes < limits.outbox_bytes && !(self.refusing && all.fills(limits))
    }
}

/// What comes after the replies that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The client's next batch may come.
    NextBatch,
    /// The rest of this batch waits for room.
    WaitForRoom,
    /// The rest of this batch goes on of itself.
    GoOn,
    /// No more replies: the end of the line.
    Finish,
    /// The client is to be cut off, what is queued with it.
    Cut,
}

pub(super) struct Outbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Encoded replies that the writer has not taken yet.
    queue: Chunks,
    queued: Content,
    /// What the writer took and the socket has not, so far.
    writing: Content,
    refusing: bool,
    /// The coordinator wants to hear when there is room.
    wanted: bool,
    /// The coordinator is through with the batch that was sent to it.
    next_batch: bool,
    /// The server is closing: the client's input ends here.
    closing: bool,
    end: End,
    /// The session's one task, reader and writer both.
    waker: Option<Waker>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// Nothing follows what is queued.
    Finishing,
    /// What is queued doesn't matter any more.
    Cut,
    /// The socket takes no more.
    Gone,
}

impl State {
    /// Ends the way out; what is queued goes.
    fn end_now(&mut self, end: End) {
        self.end = end;
        self.queue = Chunks::new();
        self.queued = Content::default();
        self.writing = Content::default();
        self.wanted = false;
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        match &self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// The coordinator's side.
impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes the session, outside the lock.
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

    pub(super) fn room(&self) -> Room {
        let state = self.state();
        let mut content = state.queued;
        content += state.writing;
        Room {
            content,
            refusing: state.refusing,
            gone: matches!(state.end, End::Cut | End::Gone),
        }
    }

    /// Queues replies without waiting and says what comes after them.
    ///
    /// The caller has looked at [`room`](Self::room) before. With [`Then::WaitForRoom`] it
    /// learns whether to wait: `true` says that the session will send a `Resume`, `false` that
    /// there is room by now, or nobody to wait for. Where nobody takes replies any more, they are
    /// dropped here.
    pub(super) fn try_send(
        &self,
        replies: Chunks,
        content: Content,
        then: Then,
        limits: &Limits,
    ) -> bool {
        self.change(|state| {
            let mut waits = false;
            if state.end == End::Open {
                if state.queue.is_empty() {
                    state.queue = replies;
                } else {
                    for chunk in replies {
                        push_chunk(&mut state.queue, chunk);
                    }
                }
                state.queued += content;
            }
            match then {
                Then::NextBatch => state.next_batch = true,
                Then::WaitForRoom => {
                    let mut all = state.queued.all;
                    all += state.writing.all;
                    waits = state.end == End::Open && all.fills(limits) && !state.refusing;
                    state.wanted |= waits;
                }
                Then::GoOn => {}
                Then::Finish if state.end == End::Open => state.end = End::Finishing,
                Then::Finish => {}
                Then::Cut => state.end_now(End::Cut),
            }
            waits
        })
    }

    /// The session will send a `Resume` when there is room.
    pub(super) fn want_room(&self) {
        self.change(|state| state.wanted = state.end == End::Open);
    }

    /// The client's input ends here, because the server is closing.
    pub(super) fn close(&self) {
        self.change(|state| state.closing = true);
    }
}

/// What the writer has to do next.
pub(super) enum Delivery {
    /// Write these.
    Replies(Chunks),
    /// Tell the coordinator that there is room: it waits for that.
    RoomAgain,
    /// Nothing: everything is delivered and nothing follows.
    Finished,
    /// Nothing: the socket takes no more.
    Gone,
    /// Nothing: the coordinator cut the client off.
    Cut,
}

/// The session's side. One task polls all of it.
impl Outbox {
    /// Takes everything that is queued. What was taken before counts as delivered now.
    pub(super) fn poll_take(&self, cx: &Context<'_>, limits: &Limits) -> Poll<Delivery> {
        let mut state = self.state();
        state.writing = Content::default();
        if state.end == End::Cut {
            Poll::Ready(Delivery::Cut)
        } else if state.end == End::Gone {
            Poll::Ready(Delivery::Gone)
        } else if state.wanted && !state.queued.all.fills(limits) {
            state.wanted = false;
            Poll::Ready(Delivery::RoomAgain)
        } else if !state.queue.is_empty() {
            state.writing = std::mem::take(&mut state.queued);
            Poll::Ready(Delivery::Replies(std::mem::take(&mut state.queue)))
        } else if state.end == End::Finishing {
            Poll::Ready(Delivery::Finished)
        } else {
            state.wait(cx)
        }
    }

    /// The socket refuses bytes, or takes some again. Says whether the coordinator wants to hear
    /// of it.
    #[must_use]
    pub(super) fn set_refusing(&self, refusing: bool) -> bool {
        let mut state = self.state();
        state.refusing = refusing;
        refusing && std::mem::take(&mut state.wanted)
    }

    /// Waits until the coordinator is through with the last batch. Says whether the server is
    /// closing; an error means that the client is cut off.
    pub(super) fn poll_next_batch(&self, cx: &Context<'_>) -> Poll<io::Result<bool>> {
        let mut state = self.state();
        if state.end == End::Cut {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        } else if std::mem::take(&mut state.next_batch) {
            Poll::Ready(Ok(state.closing))
        } else {
            state.wait(cx)
        }
    }

    pub(super) fn poll_closing(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.closing {
            Poll::Ready(())
        } else {
            state.wait(cx)
        }
    }

    pub(super) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.end == End::Cut {
            Poll::Ready(())
        } else {
            state.wait(cx)
        }
    }

    /// The socket has taken so many bytes of what was taken last.
    pub(super) fn count_written(&self, bytes: usize) {
        let mut state = self.state();
        let writing = &mut state.writing.all.bytes;
        *writing = writing.saturating_sub(bytes);
    }

    /// Whether everything sent so far is in the socket.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() && state.writing.all.bytes == 0
    }

    /// Whether the writer has nothing more to do.
    pub(super) fn is_finished(&self) -> bool {
        let state = self.state();
        state.end != End::Open && state.queue.is_empty() && state.writing.all.bytes == 0
    }

    /// The socket takes no more, for good: from now on, what is sent is for nobody. Says whether
    /// the coordinator waits for room.
    #[must_use]
    pub(super) fn leave(&self) -> bool {
        let mut state = self.state();
        let wanted = state.wanted;
        if state.end != End::Cut {
            state.end_now(End::Gone);
        }
        wanted
    }
}
