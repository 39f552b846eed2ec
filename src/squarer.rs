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
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_channel::{Receiver, RecvError, Sender};
use async_executor::{Executor, Task};
use futures_lite::future;

use crate::lock::Lock;

/// A stage that squares: integers come in by one channel, their squares go out by another.
///
/// It holds one value at a time: it takes the next only when the output has accepted the last.
/// (The output channel itself has room for one.) Order is kept. Squares are exact: every `i64` has
/// its square in an `i128`.
///
/// [`Squarer::new`] returns this handle, the [`Stage`] that does the work, and the output. Poll the
/// stage on any executor. The stage ends, and both its channels with it, when
///
/// - the input is closed and empty, after giving out what it took;
/// - every receiver of the output is dropped;
/// - [`close`](Self::close) is called, or the [`Stage`] is dropped.
///
/// Dropping this handle does not end the stage.
///
/// ```
/// use futures_lite::{StreamExt, future};
/// use keywire::Squarer;
///
/// let (numbers, input) = async_channel::unbounded();
/// let (squarer, stage, output) = Squarer::new(input);
/// for n in [1, -2, i64::MIN] {
///     numbers.try_send(n).unwrap();
/// }
/// numbers.close();
/// let (squares, ()) = future::block_on(future::zip(output.collect::<Vec<i128>>(), stage));
/// assert_eq!(squares, [1, 4, 1 << 126]);
/// future::block_on(squarer.close()); // it has ended already; this returns at once
/// ```
pub struct Squarer {
    shared: Arc<SharedStage>,
}

/// The work of a [`Squarer`]: a future that is ready when the stage has ended.
///
/// ```
/// use futures_lite::future;
/// use keywire::Squarer;
///
/// let (numbers, input) = async_channel::bounded(1);
/// let (squarer, stage, output) = Squarer::new(input);
/// future::block_on(squarer.close());
/// future::block_on(stage); // ready at once
/// assert!(numbers.is_closed() && output.is_closed());
/// ```
#[must_use = "the stage does nothing unless it is polled"]
pub struct Stage {
    shared: Arc<SharedStage>,
    run: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The work is a task of a private executor. So whoever waits for its end can run it: the stage,
/// and `close`, which then need not wait for a stage that nobody polls.
struct SharedStage {
    executor: Executor<'static>,
    /// Dropping it cancels the task.
    task: Lock<Option<Task<()>>>,
    /// Closed when the task is gone.
    finished: Receiver<Infallible>,
}

impl Squarer {
    /// Makes the stage. It returns at once and takes no input yet.
    ///
    /// ```
    /// let (numbers, input) = async_channel::bounded(1);
    /// let (squarer, stage, output) = keywire::Squarer::new(input);
    /// numbers.try_send(2).unwrap();
    /// assert_eq!(numbers.len(), 1); // nobody has polled the stage
    /// # drop((squarer, stage, output));
    /// ```
    pub fn new(input: Receiver<i64>) -> (Self, Stage, Receiver<i128>) {
        let (squares, output) = async_channel::bounded(1);
        let (finish, finished) = async_channel::bounded(1);
        let executor = Executor::new();
        let task = executor.spawn(Squaring {
            work: Box::pin(square(input, squares)),
            _finish: finish,
        });
        let shared = Arc::new(SharedStage {
            executor,
            task: Lock::new(Some(task)),
            finished,
        });
        let running = shared.clone();
        let run = Box::pin(async move { running.run().await });
        let stage = Stage {
            shared: shared.clone(),
            run,
        };
        (Self { shared }, stage, output)
    }

    /// Ends the stage, and returns when its work is gone: then it takes no more input and holds
    /// neither channel.
    ///
    /// A value that was taken and not accepted by the output is lost; one that the output holds can
    /// still be received. It does not matter whether anybody reads the output, whether the stage
    /// was ever polled, or whether it has been closed before.
    ///
    /// Cancel safety: once polled, the stage ends, whether or not the caller waits.
    ///
    /// ```
    /// let (numbers, input) = async_channel::bounded(1);
    /// let (squarer, _stage, _output) = keywire::Squarer::new(input);
    /// futures_lite::future::block_on(squarer.close());
    /// assert!(numbers.is_closed());
    /// ```
    pub async fn close(&self) {
        self.shared.cancel();
        self.shared.run().await;
    }
}

async fn square(input: Receiver<i64>, output: Sender<i128>) {
    // The stage ends, too, when the output has no receiver.
    while let Ok(n) = future::or(input.recv(), output_closed(&output)).await {
        let n = i128::from(n);
        if output.send(n * n).await.is_err() {
            return;
        }
        // However busy both sides are, a poll is short, and `close` need not wait long for it.
        future::yield_now().await;
    }
}

/// Waits until the output has no receiver.
async fn output_closed<T>(output: &Sender<i128>) -> Result<T, RecvError> {
    output.closed().await;
    Err(RecvError)
}

/// The task. Its fields are dropped in this order: when `finished` is closed, the work has let go of
/// its channels.
struct Squaring {
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
    _finish: Sender<Infallible>,
}

impl Future for Squaring {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.work.as_mut().poll(cx)
    }
}

impl SharedStage {
    /// Does the work, until it is gone.
    async fn run(&self) {
        let _ = self.executor.run(self.finished.recv()).await;
    }

    /// The task is dropped when the executor runs next, or when the thread that is inside it leaves.
    fn cancel(&self) {
        let task = self.task.lock().take();
        drop(task);
    }
}

impl Future for Stage {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.run.as_mut().poll(cx)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shared.cancel();
        while self.shared.executor.try_tick() {}
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
