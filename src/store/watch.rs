//! `Watch` and `WatchPrefix` of what nobody watches yet: the store is asked first.

use std::{fmt, future::Ready};

use super::{
    Submission,
    batch::TurnGuard,
    request::Request,
    turn::{Progress, Turn, TurnState},
};
use crate::protocol::{Code, Command, Topic};

impl Turn {
    /// What the line asks to watch at which the turn stands, if it does.
    pub(crate) fn watch_line(&self) -> Option<Topic<'_>> {
        match self.control_line() {
            Some(Command::Watch(topic)) => Some(topic),
            _ => None,
        }
    }

    /// Whether the store was asked to watch, and not for operations.
    pub(crate) fn has_watch_request(&self) -> bool {
        !self.watch_request.is_none()
    }

    /// What has come of the request to watch.
    pub(crate) fn on_watch_request(&mut self) -> Result<(), String> {
        self.watch_request.take("the store has lost the request")
    }
}

impl Progress {
    /// The store can't watch.
    pub(crate) fn fail_watch(&mut self, error: &str) {
        self.push_error(Code::Store, error);
    }
}

/// What a client asks to watch and no other watches, for [`Store::watch`](super::Store::watch) to subscribe
/// to.
///
/// A request that is dropped is answered by the server: the client gets a store error, and does not watch.
///
/// ```
/// use keywire::{protocol::Topic, store::{Batch, Store, Submission, WatchRequest}};
/// use std::future::Future;
/// # #[derive(Clone)]
/// # struct Remote;
/// # impl Remote {
/// #     async fn subscribe(&self, _: Vec<u8>) -> std::io::Result<()> { Ok(()) }
/// #     fn unsubscribe(&self, _: &[u8]) {}
/// # }
///
/// struct Proxy(Remote);
///
/// impl Store for Proxy {
///     fn watch(
///         &mut self,
///         mut request: WatchRequest,
///     ) -> Submission<WatchRequest, impl Future<Output = WatchRequest> + Send + 'static> {
///         let remote = self.0.clone();
///         Submission::Pending(async move {
///             match request.topic() {
///                 Topic::Key(key) => {
///                     if let Err(error) = remote.subscribe(key.to_vec()).await {
///                         request.fail(error);
///                     }
///                 }
///                 _ => request.fail("only keys can be watched"),
///             }
///             request
///         })
///     }
///
///     fn unwatch(&mut self, topic: Topic<'_>) {
///         if let Topic::Key(key) = topic {
///             self.0.unsubscribe(key);
///         }
///     }
///     // `submit` and `changes` stand here.
///     # fn submit(
///     #     &mut self,
///     #     batch: Batch,
///     # ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
///     #     batch.done()
///     # }
/// }
/// ```
pub struct WatchRequest(TurnGuard);

impl WatchRequest {
    /// The turn stands at the line that asks for it.
    pub(crate) fn new(mut guard: TurnGuard) -> Self {
        if let Some(turn) = guard.turn_mut() {
            turn.watch_request = Request::Asked;
        }
        Self(guard)
    }

    pub(crate) fn into_turn(mut self) -> Option<Box<Turn>> {
        if let Some(turn) = self.0.turn_mut() {
            turn.watch_request.give_back();
        }
        self.0.into_turn()
    }

    /// What is to be watched.
    pub fn topic(&self) -> Topic<'_> {
        let topic = self.0.turn().and_then(Turn::watch_line);
        topic.unwrap_or(Topic::Prefix(b""))
    }

    /// Says that it can't be watched. The client gets `:error:LINE:store:` with the reason.
    pub fn fail(&mut self, reason: impl fmt::Display) {
        if let Some(turn) = self.0.turn_mut() {
            turn.watch_request = Request::Failed(reason.to_string());
        }
    }

    /// The request, as what [`Store::watch`](super::Store::watch) returns if it does not wait.
    pub fn done(self) -> Submission<Self, Ready<Self>> {
        Submission::Done(self)
    }
}

impl fmt::Debug for WatchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WatchRequest").field(&self.topic()).finish()
    }
}

impl Turn {
    /// The line for the coordinator at which the turn stands.
    fn control_line(&self) -> Option<Command<'_>> {
        if self.progress.state != TurnState::AtControlLine {
            return None;
        }
        let mut end = self.progress.cursor.offset;
        let line = self.block.line_at(&mut end)?.ok()?;
        Command::parse(line).ok()
    }
}
