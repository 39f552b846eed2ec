//! The callers' handle of a session: it sends calls, waits for their responses, and drives the
//! session meanwhile.
//!
//! In: requests, and the polls of the tasks that wait. Out: responses. It reaches the session by
//! two channels and by polling it.

use std::{
    future::Future as _,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_channel::Sender;
use futures_lite::future::{self, poll_fn};

use super::{
    call::{Call, Request, Response, Responses},
    connection::Inbox,
    driver::{SharedDriver, Waiter},
    session::{Reconnection, Session},
    state::Condition,
    watch::{EventQueue, OwnedTopic},
};
use crate::{
    Clock, Error,
    clock::{SystemClock, sleep},
    error::ConnectionError,
    transport::Transport,
};

/// Calls that wait to be encoded. Further callers wait for room. While there is no connection, as many
/// again are kept for the next.
pub(super) const QUEUED_CALLS: usize = 256;

/// A session, for those that request something of it. The session itself does not hold it, so it ends
/// with the last of them.
pub(super) struct ServerLink {
    pub(super) driver: SharedDriver,
    calls: Sender<Call>,
    /// Watchers that were dropped, of those whose watch was sent. Each is dropped once, so the
    /// watches that were sent bound this.
    unwatches: Sender<(OwnedTopic, Arc<EventQueue>)>,
    condition: Arc<Condition>,
    calls_under_way: AtomicUsize,
    clock: Arc<dyn Clock>,
}

/// What a caller wants of its calls.
#[derive(Clone, Copy, Default)]
pub(super) struct CallOptions {
    pub(super) timeout: Option<Duration>,
    /// Writes that may be applied may be applied once more.
    pub(super) repeats_writes: bool,
}

impl ServerLink {
    /// Over this one connection.
    pub(super) fn over(transport: Box<dyn Transport>) -> Self {
        let clock = Arc::new(SystemClock);
        Self::new(clock, |inbox, condition| {
            Session::over(transport, inbox, condition)
        })
    }

    /// Over connections that are made as soon as somebody waits for one.
    pub(super) fn reconnecting(reconnection: Reconnection) -> Self {
        let clock = reconnection.connector.clock.clone();
        Self::new(clock, |inbox, condition| {
            Session::new(reconnection, inbox, condition)
        })
    }

    fn new(clock: Arc<dyn Clock>, session: impl FnOnce(Inbox, Arc<Condition>) -> Session) -> Self {
        let (calls, queued_calls) = async_channel::bounded(QUEUED_CALLS);
        let (unwatches, queued_unwatches) = async_channel::unbounded();
        let condition = Arc::<Condition>::default();
        let inbox = Inbox {
            calls: queued_calls,
            unwatches: queued_unwatches,
        };
        let mut session = session(inbox, condition.clone());
        Self {
            driver: SharedDriver::new(Box::pin(poll_fn(move |cx| session.poll(cx)))),
            calls,
            unwatches,
            condition,
            calls_under_way: AtomicUsize::new(0),
            clock,
        }
    }

    /// What ended the connection.
    pub(super) fn error(&self) -> Option<Error> {
        self.condition.end.get().cloned().map(Error::from)
    }

    pub(super) fn disconnected(&self) -> Error {
        self.error().unwrap_or(Error::Disconnected(None))
    }

    /// Why a call that had to wait too long was not sent.
    fn late_and_unsent(&self) -> Error {
        let away = self.condition.away.lock().clone();
        Error::NotSent(away.map_or(Error::TimedOut, Error::from).into())
    }

    /// Ready when this time is over.
    pub(super) async fn sleep(&self, time: Option<Duration>) {
        match time {
            Some(time) => sleep(&*self.clock, time).await,
            None => future::pending().await,
        }
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        let _ = self.condition.end.set(ConnectionError::Disconnected(None));
        self.driver.stop();
    }

    pub(super) fn unwatch(&self, topic: OwnedTopic, queue: Arc<EventQueue>) {
        if self.unwatches.try_send((topic, queue)).is_ok() {
            self.driver.mark_ready();
        }
    }

    /// Sends one request, and waits for its response.
    pub(super) async fn request(
        &self,
        request: Request,
        options: CallOptions,
    ) -> Result<Response, Error> {
        let mut responses = self.call(vec![request], options).await?;
        // A call gets a response to each request.
        responses.pop().unwrap_or(Err(Error::Disconnected(None)))
    }

    /// Sends requests, and waits for the responses, one to each. Fails if nothing was sent, or with
    /// [`Error::TimedOut`].
    pub(super) async fn call(
        &self,
        requests: Vec<Request>,
        options: CallOptions,
    ) -> Result<Responses, Error> {
        let _guard = CallGuard(&self.calls_under_way);
        let others = self.calls_under_way.fetch_add(1, Ordering::Relaxed) > 0;
        let mut late = pin!(self.sleep(options.timeout));
        let mut waiter = self.driver.waiter();
        let (call, receipt) = Call::new(requests, options.repeats_writes);
        let late_unsent = async {
            late.as_mut().await;
            Err(self.late_and_unsent())
        };
        future::or(self.send(call, &mut waiter), late_unsent).await?;
        if others {
            // Other callers may have something to send too. It can go in the same write.
            future::yield_now().await;
        }
        let responses = poll_fn(|cx| {
            // No waker meanwhile, so that a task that drives does not wake itself.
            let responses = receipt.poll(None);
            if responses.is_ready() {
                return responses;
            }
            self.driver.drive(&mut waiter, cx, || receipt.is_done());
            receipt.poll(Some(cx.waker()))
        });
        let responses = async { Ok(responses.await) };
        let late = async {
            late.await;
            Err(match receipt.cancel() {
                true => self.late_and_unsent(),
                false => Error::TimedOut,
            })
        };
        let responses = future::or(responses, late).await?;
        responses.ok_or_else(|| self.disconnected().not_sent())
    }

    /// Queues requests to be sent, as soon as there is room. The caller drives the connection then.
    pub(super) async fn send(&self, call: Call, waiter: &mut Waiter) -> Result<(), Error> {
        let mut send = pin!(self.calls.send(call));
        let sent = poll_fn(|cx| {
            let sent = send.as_mut().poll(cx);
            if sent.is_ready() {
                return sent;
            }
            self.driver.drive(waiter, cx, || false);
            send.as_mut().poll(cx)
        });
        sent.await.map_err(|_| self.disconnected().not_sent())?;
        self.driver.mark_ready();
        Ok(())
    }
}

struct CallGuard<'a>(&'a AtomicUsize);

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
