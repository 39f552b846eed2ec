//! Watching: what is told of changes, and how it reaches those who watch.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_lite::Stream;

use super::{
    connection::{Fault, Link},
    crank::Seat,
};
use crate::{
    Error,
    protocol::{Change, Topic},
};

/// Events that wait for a watcher to take them. One that falls behind by more, while others drive
/// the connection, is told how many it missed.
const WAITING_EVENTS: usize = 1024;

/// The same in bytes of keys and values: events may be large.
const WAITING_BYTES: usize = 4 << 20;

/// A change of something watched. `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::Event;
///
/// let event = Event::Put { key: b"user".to_vec(), value: b"secret".to_vec() };
/// assert_eq!(format!("{event:?}"), "Put { key: [4 bytes], value: [6 bytes] }");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A value was appended.
    Put {
        /// The key written to.
        key: Vec<u8>,
        /// The new value.
        value: Vec<u8>,
    },
    /// The first value equal to `old` was replaced, or, where there was none, `new` appended.
    Update {
        /// The key written to.
        key: Vec<u8>,
        /// The value looked for.
        old: Vec<u8>,
        /// The new value.
        new: Vec<u8>,
    },
    /// The key was removed, if it was there.
    Delete {
        /// The key removed.
        key: Vec<u8>,
    },
    /// So many changes stood here and can't be told: this watcher, or the whole connection, did
    /// not keep up. Where the connection did not, the number counts the changes of all that it
    /// watches.
    Missed(u64),
}

impl Event {
    fn of(change: Change<'_>) -> Self {
        match change {
            Change::Put { key, value } => Event::Put {
                key: key.to_vec(),
                value: value.to_vec(),
            },
            Change::Update { key, old, new } => Event::Update {
                key: key.to_vec(),
                old: old.to_vec(),
                new: new.to_vec(),
            },
            Change::Delete { key } => Event::Delete { key: key.to_vec() },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Event::Put { key, value } => key.len() + value.len(),
            Event::Update { key, old, new } => key.len() + old.len() + new.len(),
            Event::Delete { key } => key.len(),
            Event::Missed(_) => 0,
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Put { key, value } => Change::Put { key, value }.fmt(f),
            Event::Update { key, old, new } => Change::Update { key, old, new }.fmt(f),
            Event::Delete { key } => Change::Delete { key }.fmt(f),
            Event::Missed(changes) => f.debug_tuple("Missed").field(changes).finish(),
        }
    }
}

/// A stream of changes, from [`Client::watch`](crate::Client::watch) and its like.
///
/// It ends with an error when its connection ends, after the events that had come: with
/// [`Error::Refused`] and [`Code::Closing`](crate::protocol::Code::Closing) when the server shuts
/// down. A new connection knows nothing of it, so watch again there. Dropping it ends the watch.
///
/// Polling it drives the connection, for all who share it. While it is not polled and others drive
/// the connection, 1,024 events (or 4 MiB of them) wait for it, and those of one read more; what
/// comes on top is counted and told as [`Event::Missed`]. While nobody drives the connection, the same is the server's
/// business. Dropping it ends
/// the watch, with the next bytes that anyone moves. Cancel safety: a `next` that is dropped has
/// taken no event.
#[must_use = "dropping it ends the watch"]
pub struct Watcher {
    link: Arc<Link>,
    subject: Subject,
    mailbox: Arc<Mailbox>,
    seat: Seat,
}

impl Watcher {
    pub(super) fn new(link: Arc<Link>, subject: Subject) -> Self {
        Self {
            seat: link.seat(),
            link,
            subject,
            mailbox: Arc::default(),
        }
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl Stream for Watcher {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut next = this.mailbox.take();
        if next.is_pending() {
            let mailbox = &this.mailbox;
            this.link.turn(&mut this.seat, cx, || !mailbox.is_empty());
            next = this.mailbox.poll(cx);
        }
        if next.is_ready() {
            this.seat.leave();
        }
        next
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.mailbox.go() {
            self.link.leave(self.subject.clone(), self.mailbox.clone());
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("watches", &self.subject.topic())
            .finish_non_exhaustive()
    }
}

/// A [`Topic`] that owns its bytes.
#[derive(Clone)]
pub(super) enum Subject {
    Key(Vec<u8>),
    Prefix(Vec<u8>),
}

impl Subject {
    pub(super) fn topic(&self) -> Topic<'_> {
        match self {
            Subject::Key(key) => Topic::Key(key),
            Subject::Prefix(prefix) => Topic::Prefix(prefix),
        }
    }
}

/// The bounded way of events from the connection to one watcher.
#[derive(Default)]
pub(super) struct Mailbox(Mutex<Mail>);

#[derive(Default)]
struct Mail {
    events: VecDeque<Event>,
    bytes: usize,
    /// Events that found no room, behind all that did.
    missed: u64,
    /// The read that the last event came with, and whether there was no room before it.
    read: u64,
    full: bool,
    entered: bool,
    gone: bool,
    end: End,
    waker: Option<Waker>,
}

#[derive(Default)]
enum End {
    #[default]
    Open,
    Failed(Fault),
    Told,
}

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Mail)) {
        let mut mail = self.mail();
        change(&mut mail);
        let waker = mail.waker.take();
        drop(mail);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Its `Watch` is about to be sent. Not where its watcher has gone.
    pub(super) fn enter(&self) -> bool {
        let mut mail = self.mail();
        mail.entered |= !mail.gone;
        !mail.gone
    }

    /// The watcher goes. Says whether its `Watch` was sent; if not, it never will be.
    fn go(&self) -> bool {
        let mut mail = self.mail();
        mail.gone = true;
        mail.entered
    }

    fn is_empty(&self) -> bool {
        self.mail().events.is_empty()
    }

    /// Takes an event of this read. It is refused where the mailbox was full before the read: a
    /// watcher who is there empties it between any two.
    fn push(&self, event: Event, read: u64) {
        self.change(|mail| {
            if mail.read != read {
                mail.read = read;
                mail.full = mail.events.len() >= WAITING_EVENTS || mail.bytes >= WAITING_BYTES;
            }
            if mail.full {
                mail.missed = mail.missed.saturating_add(1);
                return;
            }
            if mail.missed > 0 {
                mail.events.push_back(Event::Missed(mail.missed));
                mail.missed = 0;
            }
            mail.bytes += event.bytes();
            mail.events.push_back(event);
        });
    }

    fn miss(&self, changes: u64) {
        self.change(|mail| mail.missed = mail.missed.saturating_add(changes));
    }

    /// Forgets what was told so far.
    pub(super) fn forget(&self) {
        let mut mail = self.mail();
        mail.events.clear();
        mail.bytes = 0;
        mail.missed = 0;
        mail.full = false;
    }

    /// Whether a reader who found no values must have read before all that is told here. A key
    /// that was written to has values until it is deleted.
    pub(super) fn is_plain(&self) -> bool {
        let mail = self.mail();
        let plain = |event: &Event| matches!(event, Event::Put { .. } | Event::Update { .. });
        mail.missed == 0 && mail.events.iter().all(plain)
    }

    fn end(&self, fault: &Fault) {
        self.change(|mail| mail.end = End::Failed(fault.clone()));
    }

    /// What has come. The waker is not kept, so that a watcher who turns the crank for itself
    /// does not wake itself.
    fn take(&self) -> Poll<Option<Result<Event, Error>>> {
        let mut mail = self.mail();
        let waker = mail.waker.take();
        let next = mail.next();
        drop(mail);
        drop(waker);
        next
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        let mut mail = self.mail();
        let next = mail.next();
        let old = match next {
            Poll::Pending => mail.waker.replace(cx.waker().clone()),
            Poll::Ready(_) => None,
        };
        drop(mail);
        drop(old);
        next
    }
}

impl Mail {
    fn next(&mut self) -> Poll<Option<Result<Event, Error>>> {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.bytes();
            return Poll::Ready(Some(Ok(event)));
        }
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            return Poll::Ready(Some(Ok(Event::Missed(missed))));
        }
        match std::mem::replace(&mut self.end, End::Told) {
            End::Open => {
                self.end = End::Open;
                Poll::Pending
            }
            End::Failed(fault) => Poll::Ready(Some(Err(fault.to_error()))),
            End::Told => Poll::Ready(None),
        }
    }
}

/// Who watches what on one connection.
///
/// A watcher is here from the moment its `Watch` is sent: an `Unwatch` that follows would end its
/// watch too. It is told of changes from the moment the server says that it will.
#[derive(Default)]
pub(super) struct Watches {
    keys: Audiences,
    prefixes: Audiences,
    /// Counts the reads that events come with.
    read: u64,
    told: bool,
}

type Audiences = HashMap<Vec<u8>, Vec<Listener>>;

struct Listener {
    mailbox: Arc<Mailbox>,
    begun: bool,
}

impl Watches {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    pub(super) fn begin_read(&mut self) {
        self.read += 1;
        self.told = false;
    }

    pub(super) fn has_told(&self) -> bool {
        self.told
    }

    fn audiences<'s>(&mut self, subject: &'s Subject) -> (&mut Audiences, &'s Vec<u8>) {
        match subject {
            Subject::Key(key) => (&mut self.keys, key),
            Subject::Prefix(prefix) => (&mut self.prefixes, prefix),
        }
    }

    pub(super) fn enter(&mut self, subject: &Subject, mailbox: &Arc<Mailbox>) {
        let (audiences, name) = self.audiences(subject);
        let audience = audiences.entry(name.clone()).or_default();
        if !audience
            .iter()
            .any(|one| Arc::ptr_eq(&one.mailbox, mailbox))
        {
            audience.push(Listener {
                mailbox: mailbox.clone(),
                begun: false,
            });
        }
    }

    /// From here on, the watcher is told.
    pub(super) fn begin(&mut self, subject: &Subject, mailbox: &Arc<Mailbox>) {
        let (audiences, name) = self.audiences(subject);
        let audience = audiences.get_mut(name).into_iter().flatten();
        for one in audience.filter(|one| Arc::ptr_eq(&one.mailbox, mailbox)) {
            one.begun = true;
        }
    }

    /// The watcher has gone. Says whether it was the last one of its kind.
    #[must_use]
    pub(super) fn leave(&mut self, subject: &Subject, mailbox: &Arc<Mailbox>) -> bool {
        let (audiences, name) = self.audiences(subject);
        let Some(audience) = audiences.get_mut(name) else {
            return false;
        };
        audience.retain(|one| !Arc::ptr_eq(&one.mailbox, mailbox));
        let last = audience.is_empty();
        if last {
            audiences.remove(name);
        }
        last
    }

    pub(super) fn tell(&mut self, change: Change<'_>) {
        let of_key = self.keys.get(change.key()).into_iter();
        let of_prefix = self.prefixes.iter();
        let of_prefix = of_prefix.filter(|(prefix, _)| change.key().starts_with(prefix));
        let audience = of_key.chain(of_prefix.map(|(_, audience)| audience));
        for one in audience.flatten().filter(|one| one.begun) {
            one.mailbox.push(Event::of(change), self.read);
            self.told = true;
        }
    }

    pub(super) fn missed(&self, changes: u64) {
        let audience = self.keys.values().chain(self.prefixes.values()).flatten();
        for one in audience.filter(|one| one.begun) {
            one.mailbox.miss(changes);
        }
    }

    pub(super) fn end(&mut self, fault: &Fault) {
        let audiences = [&mut self.keys, &mut self.prefixes];
        for one in audiences.into_iter().flat_map(HashMap::drain) {
            one.1.iter().for_each(|one| one.mailbox.end(fault));
        }
    }
}
