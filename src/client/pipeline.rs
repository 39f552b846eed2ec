//! Many commands in one go.

use std::fmt;

use super::{
    Client, Outcome, check,
    flow::{Answer, Ask},
};
use crate::Error;

/// Commands to be sent in one go, in order and with no other caller's in between; made by
/// [`Client::pipeline`].
///
/// ```
/// # use futures_lite::future;
/// # let server = keywire::Server::new();
/// # let handle = server.handle();
/// # let example = async {
/// #     let (ours, theirs) = async_net::unix::UnixStream::pair()?;
/// #     handle.attach(theirs).await?;
/// #     let client = keywire::Client::from_stream(ours);
/// let outcomes = client
///     .pipeline()
///     .put("user", "alice")
///     .update("user", "alice", "bob")
///     .get("user")
///     .send()
///     .await?;
/// assert_eq!(outcomes.len(), 3);
/// assert_eq!(outcomes[2].as_ref().unwrap(), &[b"bob"]);
/// #     Ok::<(), Box<dyn std::error::Error>>(())
/// # };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// ```
#[must_use = "nothing is sent before `send`"]
pub struct Pipeline<'a> {
    client: &'a Client,
    asks: Vec<Ask>,
    /// The first command that can't be sent.
    fault: Option<Error>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            client,
            asks: Vec::new(),
            fault: None,
        }
    }

    fn add(mut self, ask: Result<Ask, &'static str>) -> Self {
        match ask {
            Ok(ask) => self.asks.push(ask),
            Err(reason) if self.fault.is_none() => {
                let command = self.asks.len();
                self.fault = Some(Error::InvalidArgument { command, reason });
            }
            Err(_) => {}
        }
        self
    }

    /// Appends value to the key's list.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(check::put(key.as_ref(), value.as_ref()))
    }

    /// Reads the key's list.
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        self.add(check::get(key.as_ref()))
    }

    /// Removes the key and all its values.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.add(check::delete(key.as_ref()))
    }

    /// Replaces the first value equal to old by new, or else appends new.
    pub fn update(
        self,
        key: impl AsRef<[u8]>,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Self {
        self.add(check::update(key.as_ref(), old.as_ref(), new.as_ref()))
    }

    /// How many commands it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asks.len()
    }

    /// Whether it has none. Sending it is a [`sync`](Client::sync) then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    /// Sends the commands, and gives each its outcome, in order. That of a write that was applied
    /// is an empty list.
    ///
    /// It may be as long as you have memory for it and for its outcomes: answers are read while
    /// commands are still being sent, and no more than a few thousand commands are under way at a
    /// time. Others who share the connection wait until it is sent.
    ///
    /// Cancel safety: like that of [`Client`]; dropped half-way, a first part of it may be applied.
    ///
    /// # Errors
    ///
    /// Where nothing was sent: [`Error::InvalidArgument`] says which command can't be, and other errors
    /// that there is no connection. And [`Error::TimedOut`]. Where the connection ends half-way,
    /// the commands that have no answer by then have that error for an outcome.
    pub async fn send(self) -> Result<Vec<Outcome>, Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let empty = self.asks.is_empty();
        let asks = if empty { vec![Ask::Sync] } else { self.asks };
        let answers = self.client.ask(asks).await?;
        let outcomes = answers.into_iter().map(|answer| match answer? {
            Answer::Values(values) => Ok(values),
            _ => Ok(Vec::new()),
        });
        let outcomes = outcomes.skip(usize::from(empty));
        Ok(outcomes.collect())
    }
}

impl fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("commands", &self.asks.len())
            .finish_non_exhaustive()
    }
}
