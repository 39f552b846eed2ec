//! The callers' handle of a connection: it sends calls, waits for their responses, and drives the
//! connection meanwhile.
//!
//! In: requests, and the polls of the tasks that wait. Out: responses. It reaches the connection by
//! two channels and by polling it.

use std::{
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_channel::Sender;
use futures_lite::future::{self, poll_fn};

use super::{
    call::{Call, Receipt, Request, Response, Responses},
    connection::ClientConnection,
    driver::{SharedDriver, Waiter},
    watch::{EventQueue, OwnedTopic},
};
use crate::{Error, error::ConnectionError, transport::Transport};

/// Calls that wait to be encoded. Further callers wait for room.
const QUEUED_CALLS: usize = 256;

/// A connection, for those that request something of it. The connection itself does not hold it, so
/// it ends with the last of them.
pub(super) struct ServerLink {
    pub(super) driver: SharedDriver,
    calls: Sender<Call>,
    /// Watchers that were dropped, of those whose watch was sent. Each is dropped once, so the
    /// watches that were sent bound this.
    unwatches: Sender<(OwnedTopic, Arc<EventQueue>)>,
    end: Arc<OnceLock<ConnectionError>>,
    calls_under_way: AtomicUsize,
}

impl ServerLink {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        let (calls, queued_calls) = async_channel::bounded(QUEUED_CALLS);
        let (unwatches, queued_unwatches) = async_channel::unbounded();
        let end = Arc::new(OnceLock::new());
        let mut connection =
            ClientConnection::new(transport, queued_calls, queued_unwatches, end.clone());
        Self {
            driver: SharedDriver::new(Box::pin(poll_fn(move |cx| connection.poll(cx)))),
            calls,
            unwatches,
            end,
            calls_under_way: AtomicUsize::new(0),
        }
    }

    /// What ended the connection.
    pub(super) fn error(&self) -> Option<Error> {
        self.end.get().cloned().map(Error::from)
    }

    pub(super) fn disconnected(&self) -> Error {
        self.error().unwrap_or(Error::Disconnected(None))
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        let _ = self.end.set(ConnectionError::Disconnected(None));
        self.driver.stop();
    }

    pub(super) fn unwatch(&self, topic: OwnedTopic, queue: Arc<EventQueue>) {
        if self.unwatches.try_send((topic, queue)).is_ok() {
            self.driver.mark_ready();
        }
    }

    /// Sends one request, and waits for its response.
    pub(super) async fn request(&self, request: Request) -> Result<Response, Error> {
        let mut responses = self.call(vec![request]).await?;
        // A call gets a response to each request.
        responses.pop().unwrap_or(Err(Error::Disconnected(None)))
    }

    /// Sends requests, and waits for the responses, one to each. Fails if nothing was sent.
    pub(super) async fn call(&self, requests: Vec<Request>) -> Result<Responses, Error> {
        let _guard = CallGuard(&self.calls_under_way);
        let others = self.calls_under_way.fetch_add(1, Ordering::Relaxed) > 0;
        let mut waiter = self.driver.waiter();
        let receipt = self.send(requests, &mut waiter).await?;
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
        responses.await.ok_or_else(|| self.disconnected())
    }

    /// Queues requests to be sent, as soon as there is room. The caller drives the connection then.
    pub(super) async fn send(
        &self,
        requests: Vec<Request>,
        waiter: &mut Waiter,
    ) -> Result<Receipt, Error> {
        let (call, receipt) = Call::new(requests);
        let mut send = pin!(self.calls.send(call));
        let sent = poll_fn(|cx| {
            let sent = send.as_mut().poll(cx);
            if sent.is_ready() {
                return sent;
            }
            self.driver.drive(waiter, cx, || false);
            send.as_mut().poll(cx)
        });
        sent.await.map_err(|_| self.disconnected())?;
        self.driver.mark_ready();
        Ok(receipt)
    }
}

struct CallGuard<'a>(&'a AtomicUsize);

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
