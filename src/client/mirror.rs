//! A copy of a key, or of all keys with a prefix, that follows the server.

use std::{fmt, future::Future, pin::Pin};

use futures_lite::{StreamExt as _, future::poll_fn};

use super::{Client, event::Event, snapshot::Snapshot, watcher::Watcher};
use crate::Error;

/// Mirrors.
impl Client {
    /// Reads a key and keeps its values up to date.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// let mut user = client.mirror("user").await?;
    /// assert_eq!(user.get("user"), [b"alice"]);
    ///
    /// client.put("user", "bob").await?;
    /// user.changed().await?;
    /// assert_eq!(user.get("user"), [&b"alice"[..], b"bob"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety and errors are those of [`get_and_watch`](Self::get_and_watch).
    pub async fn mirror(&self, key: impl AsRef<[u8]>) -> Result<Mirror, Error> {
        Mirror::new(self.clone(), Range::Key(key.as_ref().to_vec())).await
    }

    /// Reads every key that begins with the prefix, and keeps their values up to date; all keys if the
    /// prefix is empty. See [`Mirror`] for an example.
    ///
    /// Cancel safety and errors are those of [`get_and_watch_prefix`](Self::get_and_watch_prefix).
    pub async fn mirror_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Mirror, Error> {
        Mirror::new(self.clone(), Range::Prefix(prefix.as_ref().to_vec())).await
    }
}

/// The values of a key, or of all keys with a prefix, as they are on the server; from
/// [`Client::mirror`] and [`Client::mirror_prefix`].
///
/// ```
/// # use {futures_lite::future, keywire::Client};
/// # let mut server = keywire::Server::new();
/// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
/// # let address = listener.local_addr()?;
/// # server.listen(listener);
/// # let example = async {
/// use keywire::Event;
///
/// let client = Client::builder().address(address).connect().await?;
/// let mut users = client.mirror_prefix("user.").await?;
/// assert!(users.is_empty());
///
/// client.set("user.a", "alice").await?;
/// match users.changed().await? {
///     Event::Missed(_) => println!("read anew: {} keys", users.len()),
///     event => println!("changed: {:?}", event.key()),
/// }
/// assert_eq!(users.get("user.a"), [b"alice"]);
/// for (key, values) in users.iter() {
///     println!("{} has {} values", key.escape_ascii(), values.len());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How it follows
///
/// The mirror changes only in [`changed`](Self::changed), by one change of the server at a time, and in
/// the server's order: so it always is what the server held at some moment. (If the prefix was read while
/// others wrote, that holds [key by key](Client::get_and_watch_prefix).) Await `changed` in a loop; while
/// nobody does, the mirror stands still, changes stay with the server, and those beyond a bound are
/// missed.
///
/// If changes were missed, because the mirror did not keep up or the connection was lost, `changed` reads
/// all values anew, and then says so. Until they are read, the mirror has its old values.
///
/// Both the first reading and those that follow take as long as they take: no
/// [time limit](Client::with_timeout) holds for them. With a client that
/// [comes back](crate::ClientBuilder#a-client-that-comes-back), they wait for the server, if it is away, and
/// give up a connection that falls silent.
///
/// # Bounds
///
/// It holds all keys and values that it mirrors, and while it reads them anew, both the old and the new.
/// There is no other bound. While it is not polled, it has a [`Watcher`]'s queue.
#[must_use = "dropping it ends the watch"]
pub struct Mirror {
    client: Client,
    range: Range,
    values: Snapshot,
    watcher: Option<Watcher>,
    /// The values are read anew, because so many changes were missed.
    reading: Option<(u64, Reading)>,
}

#[derive(Clone)]
enum Range {
    Key(Vec<u8>),
    Prefix(Vec<u8>),
}

type Reading = Pin<Box<dyn Future<Output = Result<(Snapshot, Watcher), Error>> + Send>>;

impl Mirror {
    async fn new(mut client: Client, range: Range) -> Result<Self, Error> {
        client.options.timeout = None;
        let (values, watcher) = range.read(&client).await?;
        Ok(Self {
            client,
            range,
            values,
            watcher: Some(watcher),
            reading: None,
        })
    }

    /// The values of a key, oldest first; none if it has none, or is not mirrored.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> &[Vec<u8>] {
        self.values.get(key.as_ref()).map_or(&[], Vec::as_slice)
    }

    /// All keys, in their order, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[Vec<u8>])> {
        let entries = self.values.iter();
        entries.map(|(key, values)| (key.as_slice(), values.as_slice()))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Waits for a change, applies it, and returns it. See [`Mirror`] for an example. [`Event::Missed`] says
    /// that changes were missed, so many or an unknown number, and that all values were read anew: anything
    /// may be different.
    ///
    /// Cancel safety: if it is dropped, no change is lost. If it was reading the values anew, the next call
    /// goes on with that.
    ///
    /// # Errors
    ///
    /// Those of [`Client::get_and_watch_prefix`], and whatever ended the client's last connection. The
    /// mirror has its old values then, and the next call tries to read them anew.
    pub async fn changed(&mut self) -> Result<Event, Error> {
        loop {
            if let Some((missed, reading)) = &mut self.reading {
                let missed = *missed;
                let read = poll_fn(|cx| reading.as_mut().poll(cx)).await;
                self.reading = None;
                let (values, watcher) = read?;
                self.values = values;
                self.watcher = Some(watcher);
                return Ok(Event::Missed(missed));
            }
            let next = match &mut self.watcher {
                Some(watcher) => watcher.next().await,
                None => None,
            };
            let missed = match next {
                Some(Ok(Event::Missed(changes))) => changes,
                Some(Ok(event)) => {
                    event.apply_to(&mut self.values)?;
                    return Ok(event);
                }
                Some(Err(error)) => {
                    self.watcher = None;
                    return Err(error);
                }
                // An error came before.
                None => 0,
            };
            self.begin_reading(missed);
        }
    }

    fn begin_reading(&mut self, missed: u64) {
        let (client, range) = (self.client.clone(), self.range.clone());
        // What it brings from here on stands behind a gap.
        self.watcher = None;
        let reading = Box::pin(async move { range.read(&client).await });
        self.reading = Some((missed, reading));
    }
}

impl Range {
    async fn read(&self, client: &Client) -> Result<(Snapshot, Watcher), Error> {
        match self {
            Range::Prefix(prefix) => client.get_and_watch_prefix(prefix).await,
            Range::Key(key) => {
                let (values, watcher) = client.get_and_watch(key).await?;
                let entry = (!values.is_empty()).then(|| (key.clone(), values));
                Ok((entry.into_iter().collect(), watcher))
            }
        }
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("keys", &self.values.len())
            .field("is_reading", &self.reading.is_some())
            .finish_non_exhaustive()
    }
}
