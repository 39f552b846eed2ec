//! Changes that a store makes known by itself.

use std::{fmt, sync::Arc};

use super::{Batch, turn::Turn};
use crate::protocol::{Command, Operation, Write};

/// Which changes a store brings in by [`Store::changes`](super::Store::changes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Changes {
    /// Those that were not made by clients of this server. The server itself tells watchers what its clients
    /// write, when their batches come back.
    Elsewhere,
    /// All, also those that clients of this server make. Watchers hear of no other. The server releases
    /// each batch when it comes back, so the order of batches and changes is the store's alone.
    All,
}

/// A change of a key, or that some were missed. See [`Store::changes`](super::Store::changes).
///
/// `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::{protocol::Write, store::Change};
///
/// let change = Change::from(Write::Delete { key: b"user" });
/// assert_eq!(format!("{change:?}"), "Change(Some(Delete { key: [4 bytes] }))");
/// ```
pub struct Change(Kind);

enum Kind {
    /// The write as a line, without its line feed, and the clients that are not told of it, in order.
    Write(Vec<u8>, Box<[usize]>),
    /// Changes of the keys that this says yes to; of any keys, if there is none.
    Missed(Option<Box<KeyFilter>>),
    /// A batch that is back.
    Batch(Batch),
}

/// What a client that watches is told of only with a batch of its own, so that each change is on the right side
/// of the batch's `Get`s. Lines, without their line feeds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnChanges {
    /// What the `Get`s show.
    pub(crate) before: Vec<Arc<[u8]>>,
    pub(crate) behind: Vec<Arc<[u8]>>,
    /// Changes were missed that the `Get`s may not show.
    pub(crate) has_missed: bool,
}

/// Says which keys are concerned.
pub(crate) type KeyFilter = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Change {
    /// An unknown number of changes was missed, of any keys. Every watcher is told `:missed:0`; once, if
    /// several such changes come in a row.
    pub fn missed() -> Self {
        Self(Kind::Missed(None))
    }

    /// An unknown number of changes was missed, of keys for which `concerns` is true. Those who watch such
    /// a key, or any prefix, are told `:missed:0`.
    ///
    /// The server calls `concerns` with each key that is watched.
    ///
    /// ```
    /// use keywire::store::Change;
    ///
    /// let change = Change::missed_of(|key| key.starts_with(b"user."));
    /// assert_eq!(format!("{change:?}"), "Change(None)");
    /// ```
    pub fn missed_of(concerns: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Kind::Missed(Some(Box::new(concerns))))
    }

    /// `None` if changes were missed.
    pub(crate) fn write(&self) -> Option<Write<'_>> {
        match &self.0 {
            Kind::Write(line, _) => parse_write(line),
            _ => None,
        }
    }

    /// The clients that are not told of it, in order: they are with a batch of their own.
    pub(crate) fn except(&self) -> &[usize] {
        match &self.0 {
            Kind::Write(_, except) => except,
            _ => &[],
        }
    }

    /// The write of a line that a server has published.
    #[cfg(feature = "cluster")]
    pub(crate) fn published(line: &[u8], except: Box<[usize]>) -> Self {
        match parse_write(line) {
            Some(_) => Self(Kind::Write(line.to_vec(), except)),
            None => Self::missed(),
        }
    }

    /// Of which keys changes were missed; `None` for any.
    pub(crate) fn missed_keys(&self) -> Option<&KeyFilter> {
        match &self.0 {
            Kind::Missed(concerns) => concerns.as_deref(),
            Kind::Write(..) | Kind::Batch(_) => None,
        }
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn is_batch(&self) -> bool {
        matches!(self.0, Kind::Batch(_))
    }

    /// What it takes while it waits to be told. A batch counts as nothing: it is its client's.
    pub(crate) fn bytes(&self) -> usize {
        let content = match &self.0 {
            Kind::Write(line, except) => line.len() + size_of_val(&**except),
            Kind::Missed(concerns) => concerns.as_deref().map_or(0, |it| size_of_val(it)),
            Kind::Batch(_) => return 0,
        };
        size_of::<Self>() + content
    }

    /// The turn of a batch, if it is one.
    pub(crate) fn into_turn(self) -> Result<Option<Box<Turn>>, Self> {
        match self.0 {
            Kind::Batch(batch) => Ok(batch.into_turn()),
            _ => Err(self),
        }
    }
}

/// Gives a batch back in its place among the changes. The [`Submission`](super::Submission) that it was
/// kept from is then pending, with a future that never ends. For a store that has both in one queue: between
/// a future that is ready and the stream there is no order but that which the server takes them in.
///
/// ```
/// use futures_lite::Stream;
/// use keywire::store::{Batch, Change, Changes, Order, Store, Submission};
/// use std::future::{Future, pending};
///
/// struct Log {
///     batches: async_channel::Sender<Batch>,
///     output: async_channel::Receiver<Change>, // changes, and `Change::from(batch)`
/// }
///
/// impl Store for Log {
///     const ORDER: Order = Order::Total;
///     const CHANGES: Changes = Changes::All;
///
///     fn submit(
///         &mut self,
///         batch: Batch,
///     ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
///         let _ = self.batches.try_send(batch); // to what writes the log
///         Submission::Pending(pending())
///     }
///
///     fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
///         Some(self.output.clone())
///     }
/// }
/// ```
impl From<Batch> for Change {
    fn from(batch: Batch) -> Self {
        Self(Kind::Batch(batch))
    }
}

/// A key or a value that no line can carry makes it a missed change.
impl From<Write<'_>> for Change {
    fn from(write: Write<'_>) -> Self {
        let mut line = Vec::new();
        Command::from(write).encode(&mut line);
        line.pop();
        let is_one_line = memchr::memchr(b'\n', &line).is_none();
        let change = Self(Kind::Write(line, Box::default()));
        match is_one_line && change.write() == Some(write) {
            true => change,
            false => Self::missed(),
        }
    }
}

pub(crate) fn parse_write(line: &[u8]) -> Option<Write<'_>> {
    match Command::parse(line) {
        Ok(Command::Operation(Operation::Write(write))) => Some(write),
        _ => None,
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Change").field(&self.write()).finish()
    }
}

#[cfg(all(test, unix, feature = "cluster"))]
mod tests {
    use std::{
        future::{Future, ready},
        os::unix::net::UnixStream,
        time::Duration,
    };

    use async_io::{Async, Timer};
    use futures_lite::{
        AsyncBufReadExt as _, AsyncWriteExt as _, Stream, StreamExt as _, future, io, stream,
    };

    use super::*;
    use crate::{
        Server,
        protocol::Operation,
        store::{Changes, Order, Store, Submission},
    };

    /// Has changes for each client with its batch.
    struct Own;

    impl Store for Own {
        const ORDER: Order = Order::PerKey;
        const CHANGES: Changes = Changes::All;

        fn submit(
            &mut self,
            mut batch: Batch,
        ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
            batch.each(|operation, answer| match operation {
                Operation::Get { .. } => answer.values([&b"1"[..]]),
                Operation::Write(_) => answer.done(),
            });
            batch.set_own_changes(OwnChanges {
                before: vec![b"Put:k:1"[..].into()],
                behind: vec![b"Put:k:2"[..].into(), b"Put:other:3"[..].into()],
                has_missed: true,
            });
            Submission::Pending(ready(batch))
        }

        fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
            Some(stream::pending())
        }
    }

    #[test]
    fn own_changes_are_told_on_both_sides_and_behind_them_what_was_missed() {
        let server = Server::builder().store(Own).build();
        let handle = server.handle();
        let client = async {
            let (ours, theirs) = Async::<UnixStream>::pair().unwrap();
            handle.attach(theirs).await.unwrap();
            let (read, mut write) = io::split(ours);
            write.write_all(b"Watch:k\nGet:k\n").await.unwrap();
            let lines: Vec<_> = io::BufReader::new(read).lines().take(5).collect().await;
            lines.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        let server = async {
            let _ = server.run().await;
            Vec::new()
        };
        let late = async {
            Timer::after(Duration::from_secs(10)).await;
            Vec::new()
        };
        let lines = future::block_on(future::or(client, future::or(server, late)));
        let expected = [":watch:k", ":put:k:1", "k:1", ":put:k:2", ":missed:0"];
        assert_eq!(lines, expected);
    }
}
