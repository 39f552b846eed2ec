use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use async_io::Timer;

/// The clock and the timers of a server.
///
/// A server uses them for its timeouts and its rate limit, for the wait of a listener that is out of
/// descriptors, and for the grace time of its shutdown. (TLS handshakes use async-io's timers,
/// whatever the clock.) By default the clock is the system's, through async-io.
/// [`Builder::clock`](crate::Builder::clock) sets another: for a program that has timers already, and
/// for tests that can't wait. This one uses tokio's:
///
/// ```
/// # mod tokio { pub mod time { pub async fn sleep_until(_: std::time::Instant) {} } }
/// use keywire::Clock;
/// use std::{future::Future, pin::Pin, time::Instant};
///
/// struct Tokio;
///
/// impl Clock for Tokio {
///     fn now(&self) -> Instant {
///         Instant::now()
///     }
///
///     fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         Box::pin(tokio::time::sleep_until(until.into()))
///     }
/// }
///
/// let server = keywire::Server::builder().clock(Tokio).build();
/// # drop(server);
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The time now. It never goes backwards.
    fn now(&self) -> Instant;

    /// A future that is ready when that time has come; at once if it has passed. The server may drop it
    /// before.
    fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    // For the simulation in tests/, which chooses the order of the server's tasks: asked before each
    // step of each task. If it says `true`, it wakes the task later, and is asked again then.
    #[doc(hidden)]
    fn defers(&self, task: &Waker) -> bool {
        let _ = task;
        false
    }
}

/// The system's clock.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            Timer::at(until).await;
        })
    }
}

/// The end of this time from now. If the clock can't express it, a time in many years.
pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time)
        .unwrap_or(now + Duration::from_secs(1 << 30))
}

pub(crate) async fn sleep(clock: &dyn Clock, time: Duration) {
    clock.sleep(later(clock.now(), time)).await;
}

/// A task of a server, or the part of it that does the work, which the clock may defer.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
pub(crate) fn deferrable<T>(
    clock: &Arc<dyn Clock>,
    mut task: impl Future<Output = T> + Unpin,
) -> impl Future<Output = T> {
    poll_fn(move |cx| {
        if clock.defers(cx.waker()) {
            return Poll::Pending;
        }
        Pin::new(&mut task).poll(cx)
    })
}
