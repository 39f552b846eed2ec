//! Walks over a prefix: the client's methods that begin one, and the stream of its keys.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_lite::{
    Stream,
    future::{self, poll_fn},
    stream::{self, Boxed},
};

use super::{
    Client,
    call::{Call, Destination, Receipt, Request, Response},
    driver::Waiter,
    invalid_argument,
    link::{CallOptions, ServerLink},
    snapshot::Snapshot,
    validate,
    walk_queue::{Found, WalkQueue},
    watcher::Watcher,
};
use crate::Error;

/// How often a snapshot is begun, if changes are missed while it is read.
const SNAPSHOT_TRIES: usize = 8;

/// Prefixes.
impl Client {
    /// Reads every key that begins with the prefix, with its values, oldest first; all keys if the
    /// prefix is empty. The keys come in no particular order.
    ///
    /// Nothing is sent before the first poll. See [`Walk`] for what the stream holds, and what other
    /// calls on this connection wait for.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use std::collections::HashMap;
    ///
    /// use futures_lite::StreamExt as _;
    ///
    /// client.put("user.a", "alice").await?;
    /// client.put("user.b", "bob").await?;
    /// let mut walk = client.get_prefix("user.");
    /// while let Some(entry) = walk.next().await {
    ///     let (key, values) = entry?;
    ///     println!("{}: {} values", key.escape_ascii(), values.len());
    /// }
    ///
    /// // If there is room for all of them:
    /// let users: HashMap<_, _> = client.get_prefix("user.").try_collect().await?;
    /// assert_eq!(users[&b"user.a"[..]], [b"alice"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Walk<(Vec<u8>, Vec<Vec<u8>>)> {
        let request = |prefix, queue| Request::GetPrefix {
            prefix,
            to: Destination::Walk(queue),
        };
        self.walk(prefix.as_ref(), request, |found| (found.key, found.values))
    }

    /// Lists every key that begins with the prefix, with the number of its values; all keys if the
    /// prefix is empty. The keys come in no particular order.
    ///
    /// Nothing is sent before the first poll. See [`Walk`] for what the stream holds, and what other
    /// calls on this connection wait for.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use futures_lite::StreamExt as _;
    ///
    /// client.put("user", "alice").await?;
    /// client.put("user", "bob").await?;
    /// let mut walk = client.keys("us");
    /// assert_eq!(walk.next().await.unwrap()?, (b"user".to_vec(), 2));
    /// assert!(walk.next().await.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keys(&self, prefix: impl AsRef<[u8]>) -> Walk<(Vec<u8>, u64)> {
        let request = |prefix, queue| Request::Keys { prefix, queue };
        self.walk(prefix.as_ref(), request, |found| (found.key, found.count))
    }

    /// Reads every key that begins with the prefix and watches them, with no gap and no overlap: the
    /// snapshot contains every change before the first event, and none from there on. So a snapshot
    /// to which every event is [applied](crate::Event::apply_to) is what the server holds.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use futures_lite::StreamExt as _;
    ///
    /// client.put("user.a", "alice").await?;
    /// let (mut users, mut watcher) = client.get_and_watch_prefix("user.").await?;
    /// assert_eq!(users[&b"user.a"[..]], [b"alice"]);
    ///
    /// client.set("user.b", "bob").await?;
    /// let event = watcher.next().await.unwrap()?;
    /// event.apply_to(&mut users)?; // fails if changes were missed
    /// assert_eq!(users[&b"user.b"[..]], [b"bob"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The server serves others while it sends the keys. Their changes meanwhile are applied to the
    /// snapshot already, each at its place. If changes are missed meanwhile, the snapshot is begun
    /// again, up to 8 times in all.
    ///
    /// The whole snapshot is in memory, and its size is that of the keys and values on the server:
    /// there is no other bound. Other calls on this connection wait until it is read. A
    /// [time limit](Self::with_timeout) is over if no key has come for so long, or for twice as long at
    /// most.
    ///
    /// Cancel safety: if the call is dropped, no watch of it lasts, and what is still to come of the
    /// snapshot is read and thrown away.
    ///
    /// # Errors
    ///
    /// Those of [`watch`](Self::watch). [`Error::ChangesMissed`] if changes were missed each of the 8
    /// times: this client, or its network, is slower than the writers. [`Error::RepliesDropped`] if
    /// the server dropped a key. [`Error::Refused`] if the server ended the reading, for instance
    /// because the values of one key are too long for a reply.
    pub async fn get_and_watch_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
    ) -> Result<(Snapshot, Watcher), Error> {
        let prefix = prefix.as_ref();
        let topic = validate::watch_prefix(prefix).map_err(invalid_argument)?;
        let watcher = Watcher::new(self.link(), topic);
        let read = async {
            let mut changes = 0;
            for _ in 0..SNAPSHOT_TRIES {
                let walk = Request::GetPrefix {
                    prefix: prefix.to_vec(),
                    to: Destination::Snapshot(watcher.queue.clone()),
                };
                let requests = vec![watcher.request(), walk];
                let responses = watcher.link.call(requests, CallOptions::default()).await?;
                let responses: Result<Vec<_>, _> = responses.into_iter().collect();
                match responses?.pop() {
                    Some(Response::Snapshot(snapshot)) => return Ok(snapshot),
                    Some(Response::Missed(missed)) => changes = missed,
                    _ => return Err(Error::Protocol("no snapshot")),
                }
            }
            Err(Error::ChangesMissed { changes })
        };
        // The time limit counts anew as long as keys come.
        let late = async {
            loop {
                let keys = watcher.queue.keys();
                self.link.sleep(self.options.timeout).await;
                if watcher.queue.keys() == keys {
                    return Err(Error::TimedOut);
                }
            }
        };
        let snapshot = future::or(read, late).await?;
        Ok((snapshot, watcher))
    }

    fn walk<T: 'static>(
        &self,
        prefix: &[u8],
        request: impl FnOnce(Vec<u8>, Arc<WalkQueue>) -> Request,
        item: fn(Found) -> T,
    ) -> Walk<T> {
        let queue = Arc::<WalkQueue>::default();
        let prefix = validate::prefix(prefix).map_err(invalid_argument);
        let link = self.link();
        let reader = WalkReader {
            waiter: link.driver.waiter(),
            link,
            request: Some(prefix.map(|prefix| request(prefix, queue.clone()))),
            receipt: None,
            end: None,
            queue,
        };
        let seed = (self.clone(), reader);
        let keys = stream::try_unfold(seed, move |(client, mut reader)| async move {
            let next = client.with_deadline(reader.next()).await?;
            Ok(next.map(|found| (item(found), (client, reader))))
        });
        Walk {
            keys: Box::pin(keys),
        }
    }
}

/// A stream of keys, from [`Client::get_prefix`] and [`Client::keys`].
///
/// It is not the state of one moment: the server serves others between two keys. A key that is there
/// during the whole walk comes once. One that comes or goes meanwhile comes at most once, with its
/// values at that moment. For a consistent view, see [`Client::get_and_watch_prefix`].
///
/// # Who drives it
///
/// Polling the stream drives the connection, for all that share it. The keys come as the server sends
/// them: up to 1,024 keys or 1 MiB wait for the stream to be polled, and those of one read more. With
/// so many, the connection reads no more, so every later call on it waits, and the events of its
/// watchers too.
///
/// **Do not await a call of the same client between two polls of a long walk**: it would wait for the
/// stream, which nobody polls. Let the call have a connection of its own, or collect the keys first.
/// So that such a call does not wait for ever, a stream from which nothing was taken for 5 seconds,
/// while it is full and others wait, loses what is still to come of it: it ends with
/// [`Error::RepliesDropped`], and the others go on.
///
/// A server drops replies, too, if a client does not read for its
/// [stall timeout](crate::Builder::stall_timeout), unless it is built to
/// [wait](crate::Overflow::Wait). Long pauses between two polls of a long walk need that.
///
/// # How it ends
///
/// After the last key, or with an error after the keys that came before it:
///
/// - [`Error::InvalidArgument`] as the first item, if no line can carry the prefix.
/// - [`Error::RepliesDropped`] if keys are missing. Each key that came is whole.
/// - [`Error::Refused`] if the server ended the walk: its store failed, or the values of one key are
///   too long for a reply, or the server is shutting down.
/// - What ended the [connection](Client#when-the-connection-ends).
/// - [`Error::TimedOut`] if the client has a [time limit](Client::with_timeout), which counts anew for
///   each key.
///
/// Cancel safety: a `next` that is dropped has taken no key. If the stream is dropped, what is still
/// to come of it is read and thrown away, and the client stays in step. The server sends it all the
/// same, so later calls on this connection wait for that.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Walk<T> {
    keys: Boxed<Result<T, Error>>,
}

impl<T> Stream for Walk<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.keys.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for Walk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").finish_non_exhaustive()
    }
}

/// What polls the connection for one walk.
struct WalkReader {
    link: Arc<ServerLink>,
    /// Until it is sent; or what is wrong with it.
    request: Option<Result<Request, Error>>,
    receipt: Option<Receipt>,
    /// How the walk ended. There may still be keys in the queue.
    end: Option<Result<(), Error>>,
    queue: Arc<WalkQueue>,
    waiter: Waiter,
}

impl WalkReader {
    async fn next(&mut self) -> Result<Option<Found>, Error> {
        if let Some(request) = self.request.take() {
            let (call, receipt) = Call::new(vec![request?], false);
            self.link.send(call, &mut self.waiter).await?;
            self.receipt = Some(receipt);
        }
        poll_fn(|cx| {
            // No waker meanwhile, so that a task that drives does not wake itself.
            let mut next = self.poll_come(None);
            if next.is_pending() {
                let (queue, receipt) = (&self.queue, &self.receipt);
                let enough = || !queue.is_empty() || receipt.as_ref().is_some_and(Receipt::is_done);
                self.link.driver.drive(&mut self.waiter, cx, enough);
                next = self.poll_come(Some(cx.waker()));
            }
            if next.is_ready() {
                self.waiter.unregister();
            }
            next
        })
        .await
    }

    /// What has come. If that is nothing, this waker is woken when something does.
    fn poll_come(&mut self, waker: Option<&Waker>) -> Poll<Result<Option<Found>, Error>> {
        // Before the queue, since every key is in the queue before the end is known.
        if self.end.is_none()
            && let Some(Poll::Ready(responses)) = self.receipt.as_ref().map(|one| one.poll(waker))
        {
            let response = responses.and_then(|mut responses| responses.pop());
            let response = response.unwrap_or_else(|| Err(self.link.disconnected().not_sent()));
            self.end = Some(response.map(drop));
        }
        if let Poll::Ready((found, freed)) = self.queue.poll_next(waker) {
            if freed {
                self.link.driver.wake();
            }
            return Poll::Ready(Ok(Some(found)));
        }
        match self.end.take() {
            Some(end) => Poll::Ready(end.map(|()| None)),
            None => Poll::Pending,
        }
    }
}

impl Drop for WalkReader {
    fn drop(&mut self) {
        if self.queue.close() {
            self.link.driver.wake();
        }
    }
}
