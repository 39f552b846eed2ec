//! The squarer: a stage between two channels, in the same style as the server but much smaller.
//!
//! Integers come in by one channel, and their squares go out by another:
//!
//! ```text
//! numbers ──> input channel ──> Stage ──> output channel ──> squares
//!                                 ^
//!                   Squarer::close ends it
//! ```
//!
//! It shows how such a stage is started, slowed down and ended:
//!
//! - **Start.** [`Squarer::new`] returns at once. It spawns nothing: the caller polls the [`Stage`] on
//!   any executor.
//! - **Backpressure.** The stage holds one value at a time and takes the next only when the output has
//!   accepted the last. If the squares are not read, the stage takes no more numbers, and a bounded
//!   input fills up.
//! - **End.** The stage ends if its input is closed and empty, if nobody holds its output any more, if
//!   [`Squarer::close`] is called, or if the `Stage` is dropped. In each case it drops its ends of both
//!   channels, so the tasks at the other ends see that it has ended.
//!
//! ```
//! use futures_lite::future;
//! use keywire::Squarer;
//!
//! let (numbers, input) = async_channel::bounded(1);
//! let (_squarer, stage, output) = Squarer::new(input);
//! let feed = async move {
//!     for number in 1..=3 {
//!         numbers.send(number).await.unwrap(); // waits while the stage is behind
//!     }
//!     // `numbers` is dropped here. That closes the input, and the stage ends behind the last value.
//! };
//! let print = async {
//!     let mut squares = Vec::new();
//!     while let Ok(square) = output.recv().await {
//!         squares.push(square);
//!     }
//!     squares
//! };
//! let ((), (squares, ())) = future::block_on(future::zip(feed, future::zip(print, stage)));
//! assert_eq!(squares, [1, 4, 9]);
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_channel::{Receiver, Sender};
use event_listener::Event;

/// A stage that squares: integers come in by one channel, their squares go out by another.
///
/// It holds one value at a time: it takes the next only when the output has accepted the last.
/// (The output channel itself has room for one.) Order is kept. Squares are exact: every `i64` has
/// its square in an `i128`.
///
/// [`Squarer::new`] returns at once, with this handle, the [`Stage`] that does the work, and the
/// output. Poll the worker on any executor. It ends, and the output with it, when
///
/// - the input is closed and empty, after giving out what it took;
/// - nobody holds the output any more;
/// - [`close`](Self::close) is called, or the worker is dropped.
///
/// Dropping this handle only means that nobody will close the stage by it.
///
/// ```
/// use futures_lite::{StreamExt, future};
/// use keywire::Squarer;
///
/// let (numbers, input) = async_channel::unbounded();
/// let (squarer, worker, output) = Squarer::new(input);
/// for n in [1, -2, i64::MIN] {
///     numbers.try_send(n).unwrap();
/// }
/// numbers.close();
/// let (squares, ()) = future::block_on(future::zip(output.collect::<Vec<i128>>(), worker));
/// assert_eq!(squares, [1, 4, 1 << 126]);
/// future::block_on(squarer.close()); // it has ended already; this returns at once
/// ```
pub struct Squarer {
    shared: Arc<Shared>,
}

/// The moving part of a [`Squarer`]: a future that is ready when the stage has ended.
///
/// ```
/// use futures_lite::future;
/// use keywire::Squarer;
///
/// let (numbers, input) = async_channel::bounded(1);
/// let (squarer, worker, output) = Squarer::new(input);
/// future::block_on(squarer.close());
/// future::block_on(worker); // ready at once
/// assert!(numbers.is_closed() && output.is_closed());
/// ```
#[must_use = "the stage does nothing unless its worker is polled"]
pub struct Stage {
    shared: Arc<Shared>,
}

struct Shared {
    slot: Mutex<Slot>,
    /// Notified when `slot` becomes `Gone`.
    gone: Event,
}

/// Where the work is.
enum Slot {
    /// Between two polls, or before the first. Whoever takes it from here owns it, so `close`
    /// need not wait for a worker that nobody polls.
    Resting(Work, Option<Waker>),
    /// Some thread is inside it, or dropping it.
    Taken { close: bool },
    /// It is dropped, and its channel ends with it.
    Gone,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Squarer {
    /// Makes the stage, without waiting.
    pub fn new(input: Receiver<i64>) -> (Self, Stage, Receiver<i128>) {
        let (sender, output) = async_channel::bounded(1);
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot::Resting(Box::pin(work(input, sender)), None)),
            gone: Event::new(),
        });
        let worker = Stage {
            shared: shared.clone(),
        };
        (Self { shared }, worker, output)
    }

    /// Ends the stage, and returns when its work is gone: it will take no more input and holds
    /// neither channel.
    ///
    /// A value that was taken and not accepted by the output is lost; one that the output holds can
    /// still be received. It does not matter whether anybody reads the output, whether the worker
    /// was ever polled, or whether the stage has been closed before.
    ///
    /// Cancel safety: once polled, the stage ends, whether or not the caller waits.
    pub async fn close(&self) {
        loop {
            let gone = self.shared.gone.listen();
            if self.shared.end() {
                return;
            }
            // A thread is inside the work, for as long as one poll takes.
            gone.await;
        }
    }
}

async fn work(input: Receiver<i64>, output: Sender<i128>) {
    // The stage ends, too, when nobody is there to hear it.
    while let Ok(n) = futures_lite::future::or(input.recv(), unheard(&output)).await {
        let n = i128::from(n);
        if output.send(n * n).await.is_err() {
            return;
        }
        // However busy both sides are, a poll is short, and `close` need not wait long for it.
        futures_lite::future::yield_now().await;
    }
}

/// Waits until the output has no receiver.
async fn unheard<T>(output: &Sender<i128>) -> Result<T, async_channel::RecvError> {
    output.closed().await;
    Err(async_channel::RecvError)
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the work out for one poll, unless it has ended.
    fn take(&self) -> Option<Work> {
        let mut slot = self.slot();
        match std::mem::replace(&mut *slot, Slot::Taken { close: false }) {
            Slot::Resting(work, _) => Some(work),
            ended => {
                *slot = ended;
                None
            }
        }
    }

    /// Ends the work where it rests. `false` means that some thread has it just now, and will end
    /// it.
    fn end(&self) -> bool {
        let mut slot = self.slot();
        match &mut *slot {
            Slot::Taken { close } => {
                *close = true;
                return false;
            }
            Slot::Gone => return true,
            Slot::Resting(..) => {}
        }
        let rested = std::mem::replace(&mut *slot, Slot::Taken { close: true });
        drop(slot);
        if let Slot::Resting(work, waker) = rested {
            self.bury(work);
            // The worker has nothing to wait for now.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        true
    }

    /// Drops the work that was taken from the slot. The lock is not held while it goes.
    fn bury(&self, work: Work) {
        drop(work);
        *self.slot() = Slot::Gone;
        self.gone.notify(usize::MAX);
    }
}

impl Future for Stage {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut work) = self.shared.take() else {
            return Poll::Ready(());
        };
        // The lock is not held here: what this wakes may call `close`.
        let result = work.as_mut().poll(cx);
        let mut slot = self.shared.slot();
        if result.is_pending() && matches!(*slot, Slot::Taken { close: false }) {
            *slot = Slot::Resting(work, Some(cx.waker().clone()));
            return Poll::Pending;
        }
        drop(slot);
        self.shared.bury(work);
        Poll::Ready(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl fmt::Debug for Squarer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Squarer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}
