//! Many commands in one go.

use std::fmt;

use super::{
    Client, Outcome,
    call::{Request, Response},
    validate,
};
use crate::Error;

/// Pipelines.
impl Client {
    /// Begins a list of commands that are sent in one go. See [`Pipeline`] for an example.
    pub fn pipeline(&self) -> Pipeline<'_> {
        Pipeline {
            client: self,
            requests: Vec::new(),
            invalid: None,
        }
    }
}

/// Commands that are sent in one go, in order and with no other caller's in between; made by
/// [`Client::pipeline`].
///
/// A pipeline is not a transaction. Between any two of its commands, those of other connections may
/// be applied, and if one command fails, those behind it are applied all the same.
///
/// ```
/// # use {futures_lite::future, keywire::Client};
/// # let mut server = keywire::Server::new();
/// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
/// # let address = listener.local_addr()?;
/// # server.listen(listener);
/// # let example = async {
/// # let client = Client::connect(address).await?;
/// let outcomes = client
///     .pipeline()
///     .put("user", "alice")
///     .update("user", "alice", "bob")
///     .get("user")
///     .send()
///     .await?;
/// for outcome in outcomes {
///     // One command may fail, and the others not. A write has no values.
///     if let Some(values) = outcome?.into_values() {
///         assert_eq!(values, [b"bob"]);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is sent before `send`"]
pub struct Pipeline<'a> {
    client: &'a Client,
    requests: Vec<Request>,
    /// The first command that can't be sent.
    invalid: Option<Error>,
}

impl Pipeline<'_> {
    fn add(mut self, request: Result<Request, &'static str>) -> Self {
        match request {
            Ok(request) => self.requests.push(request),
            Err(reason) if self.invalid.is_none() => {
                let command = self.requests.len();
                self.invalid = Some(Error::InvalidArgument { command, reason });
            }
            Err(_) => {}
        }
        self
    }

    /// Appends `value` to the key's list.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(validate::put(key.as_ref(), value.as_ref()))
    }

    /// Reads the key's list.
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        self.add(validate::get(key.as_ref()))
    }

    /// Removes the key and all its values.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.add(validate::delete(key.as_ref()))
    }

    /// Replaces the first value equal to `old` by `new`; appends `new` if there is none.
    pub fn update(
        self,
        key: impl AsRef<[u8]>,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Self {
        self.add(validate::update(key.as_ref(), old.as_ref(), new.as_ref()))
    }

    /// Makes `value` the key's only one, in one step.
    pub fn set(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(validate::set(key.as_ref(), value.as_ref()))
    }

    /// Removes the first value equal to `value`, if there is one.
    pub fn remove(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(validate::remove(key.as_ref(), value.as_ref()))
    }

    /// How many commands it has, without those that can't be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether it has no commands. Then sending it is a [`sync`](Client::sync).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Sends the commands, and returns the [outcome](Outcome) of each, in order.
    ///
    /// The length is bounded by your memory for the commands and their outcomes: replies are read
    /// while commands are still being sent, and up to 4,096 commands are in flight at a time. Other
    /// callers of the connection wait until the pipeline is sent.
    ///
    /// Cancel safety: like that of [`Client`]; if the call is dropped, a first part of the commands
    /// may be applied.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] names the first command that can't be sent; then none is sent. The
    /// error that ended the connection, if it had ended before anything was sent. And
    /// [`Error::TimedOut`]. If the connection ends half-way, its error is the outcome of each command
    /// that has no response by then.
    pub async fn send(self) -> Result<Vec<Result<Outcome, Error>>, Error> {
        if let Some(invalid) = self.invalid {
            return Err(invalid);
        }
        let empty = self.requests.is_empty();
        let requests = if empty {
            vec![Request::Sync]
        } else {
            self.requests
        };
        let Client { link, options } = self.client;
        let responses = link.call(requests, *options).await?;
        let outcomes = responses.into_iter().map(|response| match response? {
            Response::Values(values) => Ok(Outcome::Values(values)),
            _ => Ok(Outcome::Done),
        });
        let outcomes = outcomes.skip(usize::from(empty));
        Ok(outcomes.collect())
    }
}

impl fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("commands", &self.requests.len())
            .finish_non_exhaustive()
    }
}
