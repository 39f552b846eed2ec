//! Watches: the client's methods that begin one, and the stream of its events.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_lite::Stream;

use super::{
    Client,
    call::{Request, Response},
    driver::Waiter,
    event::Event,
    invalid_argument,
    link::{CallOptions, ServerLink},
    validate,
    watch::{EventQueue, OwnedTopic},
};
use crate::Error;

/// Watches.
impl Client {
    /// Watches a key: every change from here on is an event, whichever client makes it.
    ///
    /// ```
    /// # use {futures_lite::{StreamExt as _, future}, keywire::{Client, Event}};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// let mut watcher = client.watch("user").await?;
    /// client.put("user", "alice").await?;
    /// let event = watcher.next().await.unwrap()?;
    /// assert_eq!(event, Event::Put { key: b"user".to_vec(), value: b"alice".to_vec() });
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety: if the call is dropped, no watch of it lasts.
    ///
    /// # Errors
    ///
    /// As [above](Client#what-a-response-guarantees). [`Error::Refused`] with
    /// [`Code::Full`](crate::protocol::Code::Full) if the server allows no more watches.
    pub async fn watch(&self, key: impl AsRef<[u8]>) -> Result<Watcher, Error> {
        self.begin_watch(validate::watch(key.as_ref())).await
    }

    /// Watches every key that begins with the prefix; all keys if the prefix is empty.
    ///
    /// ```
    /// # use {futures_lite::{StreamExt as _, future}, keywire::{Client, Event}};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// let mut watcher = client.watch_prefix("user.").await?;
    /// client.delete("user.alice").await?;
    /// let event = watcher.next().await.unwrap()?;
    /// assert_eq!(event, Event::Delete { key: b"user.alice".to_vec() });
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety and errors are those of [`watch`](Self::watch).
    pub async fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Watcher, Error> {
        self.begin_watch(validate::watch_prefix(prefix.as_ref()))
            .await
    }

    /// Reads a key and watches it, with no gap and no overlap: the values contain every change
    /// before the first event, and none from there on.
    ///
    /// ```
    /// # use {futures_lite::{StreamExt as _, future}, keywire::{Client, Event}};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// let (values, mut watcher) = client.get_and_watch("user").await?;
    /// assert_eq!(values, [b"alice"]);
    /// client.put("user", "bob").await?;
    /// let event = watcher.next().await.unwrap()?;
    /// assert_eq!(event, Event::Put { key: b"user".to_vec(), value: b"bob".to_vec() });
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety and errors are those of [`watch`](Self::watch).
    pub async fn get_and_watch(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<(Vec<Vec<u8>>, Watcher), Error> {
        let key = key.as_ref();
        let topic = validate::watch(key).map_err(invalid_argument)?;
        let watcher = Watcher::new(self.link(), topic);
        let read = async {
            loop {
                let get = Request::Get {
                    key: key.to_vec(),
                    snapshot: Some(watcher.queue.clone()),
                };
                let requests = vec![watcher.request(), get];
                let responses = watcher.link.call(requests, CallOptions::default()).await?;
                let responses: Result<Vec<_>, _> = responses.into_iter().collect();
                if let Some(Response::Values(values)) = responses?.pop() {
                    break Ok(values);
                }
                // The key lost its values just then, before the read or after it.
            }
        };
        let values = self.with_deadline(read).await?;
        Ok((values, watcher))
    }

    async fn begin_watch(&self, topic: Result<OwnedTopic, &'static str>) -> Result<Watcher, Error> {
        let topic = topic.map_err(invalid_argument)?;
        // Dropped after the call, so that its unwatch finds a watch that was sent or never will be.
        let watcher = Watcher::new(self.link(), topic);
        watcher
            .link
            .request(watcher.request(), self.options)
            .await?;
        Ok(watcher)
    }
}

/// A stream of changes, from [`Client::watch`] and its like.
///
/// ```
/// # use {futures_lite::{StreamExt as _, future}, keywire::{Client, Event}};
/// # let mut server = keywire::Server::new();
/// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
/// # let address = listener.local_addr()?;
/// # server.listen(listener);
/// # let example = async {
/// # let client = Client::connect(address).await?;
/// let mut watcher = client.watch_prefix("").await?; // every key
/// client.pipeline().put("user", "alice").delete("user").send().await?;
/// while let Some(event) = watcher.next().await {
///     match event? {
///         Event::Missed(changes) => println!("{changes} changes were missed"),
///         Event::Delete { .. } => break,
///         event => println!("{event:?}"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Who drives it
///
/// Polling a watcher drives the connection, for all that share it. While nobody polls the watcher
/// and awaits no call, nothing moves: the events stay with the server. While the watcher is not
/// polled and others drive the connection, up to 1,024 events or 4 MiB of them wait for it, and
/// those of one read more; the changes beyond are counted, and come as [`Event::Missed`].
///
/// # How it ends
///
/// The stream ends with an error when the client's last connection ends, after the events that had come:
/// with [`Error::Refused`] and [`Code::Closing`](crate::protocol::Code::Closing) if the server shuts
/// down. Dropping the watcher ends the watch, with the next bytes that any task moves.
///
/// With a client that [comes back](crate::ClientBuilder#a-client-that-comes-back), the stream goes on: once
/// the watch is begun anew, it has one [`Event::Missed(0)`](Event::Missed), then what changes from there on.
///
/// Cancel safety: a `next` that is dropped has taken no event.
#[must_use = "dropping it ends the watch"]
pub struct Watcher {
    pub(super) link: Arc<ServerLink>,
    topic: OwnedTopic,
    pub(super) queue: Arc<EventQueue>,
    waiter: Waiter,
}

impl Watcher {
    pub(super) fn new(link: Arc<ServerLink>, topic: OwnedTopic) -> Self {
        Self {
            waiter: link.driver.waiter(),
            link,
            topic,
            queue: Arc::default(),
        }
    }

    pub(super) fn request(&self) -> Request {
        Request::Watch {
            topic: self.topic.clone(),
            queue: self.queue.clone(),
            again: false,
        }
    }
}

impl Stream for Watcher {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // No waker meanwhile, so that a watcher that drives does not wake itself.
        let mut next = this.queue.poll_next(None);
        if next.is_pending() {
            let queue = &this.queue;
            this.link
                .driver
                .drive(&mut this.waiter, cx, || !queue.is_empty());
            next = this.queue.poll_next(Some(cx.waker()));
        }
        if next.is_ready() {
            this.waiter.unregister();
        }
        next
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.queue.mark_dropped() {
            self.link.unwatch(self.topic.clone(), self.queue.clone());
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("watches", &self.topic.topic())
            .finish_non_exhaustive()
    }
}
