//! Keeps each watched bucket subscribed at the node that has it.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_lite::{AsyncRead as _, AsyncWrite as _};

use super::{
    driver::{MAX_REPLY, Shared},
    feed::{Event, Feed},
    slots::BUCKETS,
    stream::Stream,
};
use crate::Clock;

/// While anything is watched, the time between two looks at what is late.
const TICK: Duration = Duration::from_millis(100);

/// The time before a bucket is subscribed to again that could not be.
const RETRY_TIME: Duration = Duration::from_millis(100);

/// Buckets whose numbers are asked for in each [`AUDIT_TICKS`], so that a change that was lost, or a node that
/// has become a replica, is found also if no other change comes.
const AUDIT_BUCKETS: usize = 64;
const AUDIT_TICKS: u32 = 5;

/// The time after which a node that owes an answer is suspected to have lost its slots.
const SILENCE: Duration = Duration::from_secs(1);

/// Bytes read at a time, and reads of one node before others have their turns.
const READ_BYTES: usize = 64 * 1024;
const READS: usize = 4;

type Connect = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// How far the subscription to a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It may be tried at that time.
    None(Option<Instant>),
    /// Asked for on the connection with this number.
    Asked(u64),
    /// Confirmed. The number is still to come.
    Confirmed(u64),
    Live(u64),
}

impl Place {
    fn connection(self) -> Option<u64> {
        match self {
            Self::None(_) => None,
            Self::Asked(at) | Self::Confirmed(at) | Self::Live(at) => Some(at),
        }
    }
}

enum Link {
    Connecting(Connect),
    Open(Stream),
}

struct Connection {
    link: Link,
    node: usize,
    feed: Feed,
    input: Vec<u8>,
    written: usize,
}

/// Serves the subscriptions, for ever.
pub(super) async fn run(shared: Arc<Shared>, clock: Arc<dyn Clock>) {
    let mut subscriptions = Subscriptions {
        shared,
        clock,
        connections: HashMap::new(),
        next_connection: 0,
        places: vec![Place::None(None); BUCKETS.into()],
        runs: vec![None; BUCKETS.into()],
        tick: None,
        ticks: 0,
        next_audited: 0,
    };
    poll_fn(|cx| subscriptions.poll(cx)).await
}

struct Subscriptions {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    places: Vec<Place>,
    /// The run of the node that gave the number of a bucket.
    runs: Vec<Option<Arc<[u8]>>>,
    tick: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ticks: u32,
    next_audited: u16,
}

impl Subscriptions {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (is_used, mut is_changed) = {
            let mut watching = self.shared.watching.lock();
            let known = watching.subscriber.as_ref();
            if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
                watching.subscriber = Some(cx.waker().clone());
            }
            (watching.is_used(), std::mem::take(&mut watching.is_changed))
        };
        if !is_used && !is_changed && self.connections.is_empty() {
            self.tick = None;
            return Poll::Pending;
        }
        let now = self.clock.now();
        is_changed |= self.poll_tick(now, cx);
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        let mut is_lost = false;
        for &number in &numbers {
            is_lost |= self.poll_connection(number, now, cx);
        }
        if is_lost {
            self.want_slots(now, cx);
        }
        if is_changed || is_lost {
            self.assign(now, cx);
        }
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            if self.poll_write(number, cx).is_err() {
                self.close(number, now);
            }
        }
        Poll::Pending
    }

    /// Whether it has passed.
    fn poll_tick(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_passed = false;
        loop {
            let clock = &self.clock;
            let tick = self.tick.get_or_insert_with(|| clock.sleep(now + TICK));
            if tick.as_mut().poll(cx).is_pending() {
                break;
            }
            self.tick = None;
            if !has_passed {
                self.on_time(now, cx);
            }
            has_passed = true;
        }
        has_passed
    }

    fn on_time(&mut self, now: Instant, cx: &mut Context<'_>) {
        let mut watching = self.shared.watching.lock();
        let silent = watching.sequencer.on_time(now);
        watching.flush();
        drop(watching);
        for &bucket in &silent {
            self.ask_number(bucket, now);
        }
        let mut suspects = !silent.is_empty();
        let timeout = self.shared.timeout;
        let mut late = Vec::new();
        for (&number, connection) in &self.connections {
            let silence = connection.feed.silence(now);
            suspects |= silence >= SILENCE;
            if silence >= timeout {
                late.push(number);
            }
        }
        for number in late {
            self.close(number, now);
        }
        if suspects {
            self.want_slots(now, cx);
        }
        self.ticks += 1;
        if self.ticks % AUDIT_TICKS == 0 {
            self.audit(now);
        }
    }

    fn audit(&mut self, now: Instant) {
        let mut asked = 0;
        for _ in 0..BUCKETS {
            let bucket = self.next_audited;
            self.next_audited = (bucket + 1) % BUCKETS;
            asked += usize::from(self.ask_number(bucket, now));
            if asked == AUDIT_BUCKETS {
                return;
            }
        }
    }

    fn ask_number(&mut self, bucket: u16, now: Instant) -> bool {
        let Place::Live(at) = self.places[usize::from(bucket)] else {
            return false;
        };
        let Some(connection) = self.connections.get_mut(&at) else {
            return false;
        };
        connection.feed.ask_number(bucket, &self.shared.layout, now);
        true
    }

    /// The nodes may have other slots than is known.
    fn want_slots(&self, now: Instant, cx: &mut Context<'_>) {
        self.shared.state().router.want_slots(now);
        // The driver is to write the question.
        cx.waker().wake_by_ref();
    }

    /// Whether a subscription was lost.
    fn poll_connection(&mut self, number: u64, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else {
            return false;
        };
        if let Link::Connecting(connect) = &mut connection.link {
            match connect.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(stream)) => connection.link = Link::Open(stream),
                Poll::Ready(Err(_)) => {
                    self.close(number, now);
                    return true;
                }
            }
        }
        match self.poll_read(number, now, cx) {
            Ok(is_lost) => is_lost,
            Err(_) => {
                self.close(number, now);
                true
            }
        }
    }

    fn poll_read(&mut self, number: u64, now: Instant, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut is_lost = false;
        for _ in 0..READS {
            let Some(connection) = self.connections.get_mut(&number) else {
                return Ok(is_lost);
            };
            let Link::Open(stream) = &mut connection.link else {
                return Ok(is_lost);
            };
            // TLS may have read more than it has given.
            if matches!(stream, Stream::Plain(_)) {
                match stream.poll_readable(cx) {
                    Poll::Pending => return Ok(is_lost),
                    Poll::Ready(ready) => ready?,
                }
            }
            let length = connection.input.len();
            if length > MAX_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            connection.input.resize(length + READ_BYTES, 0);
            let read = Pin::new(stream).poll_read(cx, &mut connection.input[length..]);
            let bytes = match &read {
                Poll::Ready(Ok(bytes)) => *bytes,
                _ => 0,
            };
            connection.input.truncate(length + bytes);
            match read {
                Poll::Pending => return Ok(is_lost),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => is_lost |= self.handle(number, now)?,
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        cx.waker().wake_by_ref();
        Ok(is_lost)
    }

    /// Handles the messages that are whole. Whether a subscription was lost.
    fn handle(&mut self, number: u64, now: Instant) -> io::Result<bool> {
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(false);
        };
        let mut is_lost = false;
        let mut start = 0;
        let mut watching = self.shared.watching.lock();
        let Connection { feed, input, .. } = connection;
        while start < input.len() {
            let Some(length) = feed.scanner.scan(&input[start..]).map_err(malformed)? else {
                break;
            };
            let message = &input[start..start + length];
            start += length;
            let layout = &self.shared.layout;
            let event = feed.on_message(message, layout, now).map_err(malformed)?;
            let bucket = match event {
                Event::None => continue,
                Event::Subscribed(bucket)
                | Event::Lost(bucket)
                | Event::Away(bucket)
                | Event::Number(bucket, _)
                | Event::Change(bucket, ..) => bucket,
            };
            let place = &mut self.places[usize::from(bucket)];
            if place.connection() != Some(number) {
                // It is subscribed elsewhere by now, or not at all.
                continue;
            }
            let sequencer = &mut watching.sequencer;
            match event {
                Event::None => {}
                Event::Subscribed(_) => *place = Place::Confirmed(number),
                Event::Away(_) if matches!(place, Place::Live(_)) => {}
                Event::Lost(_) | Event::Away(_) => {
                    *place = Place::None(Some(now + RETRY_TIME));
                    sequencer.on_lost(bucket);
                    is_lost = true;
                }
                Event::Number(_, value) if *place != Place::Asked(number) => {
                    let run = &mut self.runs[usize::from(bucket)];
                    let is_same = run.is_some() && *run == feed.run;
                    run.clone_from(&feed.run);
                    *place = Place::Live(number);
                    sequencer.on_number(bucket, value, is_same);
                    watching.wake_requests();
                }
                Event::Number(..) => {}
                Event::Change(_, value, line) => sequencer.on_change(bucket, value, line),
            }
        }
        watching.flush();
        input.drain(..start);
        Ok(is_lost)
    }

    fn poll_write(&mut self, number: u64, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(());
        };
        let Connection {
            link: Link::Open(stream),
            feed,
            written,
            ..
        } = connection
        else {
            return Ok(());
        };
        while *written < feed.out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &feed.out[*written..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(bytes) => *written += bytes?,
            }
        }
        feed.out.clear();
        *written = 0;
        match Pin::new(stream).poll_flush(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(flushed) => flushed,
        }
    }

    /// The connection is gone, and what was subscribed on it is lost.
    fn close(&mut self, number: u64, now: Instant) {
        if self.connections.remove(&number).is_none() {
            return;
        }
        let mut watching = self.shared.watching.lock();
        for (bucket, place) in (0..).zip(&mut self.places) {
            if place.connection() == Some(number) {
                *place = Place::None(Some(now + RETRY_TIME));
                watching.sequencer.on_lost(bucket);
            }
        }
    }

    /// Subscribes to each bucket that is wanted at the node that has it, and to no other.
    fn assign(&mut self, now: Instant, cx: &mut Context<'_>) {
        let (owners, addresses, auth) = {
            let router = &self.shared.state().router;
            let owners: Vec<_> = (0..BUCKETS).map(|bucket| router.owner(bucket)).collect();
            let addresses: Vec<_> = router.nodes.iter().map(|it| it.address.clone()).collect();
            (owners, addresses, router.config.auth.clone())
        };
        let shared = self.shared.clone();
        let layout = &shared.layout;
        let mut watching = shared.watching.lock();
        for (bucket, owner) in (0..BUCKETS).zip(owners) {
            let place = self.places[usize::from(bucket)];
            let owner = owner.filter(|_| watching.is_wanted(bucket));
            if let Some(at) = place.connection() {
                match self.connections.get_mut(&at) {
                    Some(it) if owner == Some(it.node) => {
                        if matches!(place, Place::Live(_)) && !watching.sequencer.is_live(bucket) {
                            // It was given up, and is wanted again.
                            it.feed.ask_number(bucket, layout, now);
                        }
                        continue;
                    }
                    Some(it) => it.feed.unsubscribe(bucket, layout, now),
                    None => {}
                }
                self.places[usize::from(bucket)] = Place::None(None);
                watching.sequencer.on_lost(bucket);
            }
            if !watching.is_wanted(bucket) {
                self.places[usize::from(bucket)] = Place::None(None);
                self.runs[usize::from(bucket)] = None;
                continue;
            }
            let is_early = matches!(place, Place::None(Some(at)) if now < at);
            let Some(owner) = owner.filter(|_| !is_early) else {
                continue;
            };
            let known = self.connections.iter().find(|(_, it)| it.node == owner);
            let at = known.map_or(self.next_connection, |(&at, _)| at);
            let next_connection = &mut self.next_connection;
            let connection = self.connections.entry(at).or_insert_with(|| {
                *next_connection += 1;
                // It is to be polled.
                cx.waker().wake_by_ref();
                Connection {
                    link: Link::Connecting(Box::pin(
                        shared.connector.clone().connect(addresses[owner].clone()),
                    )),
                    node: owner,
                    feed: Feed::new(auth.as_deref(), now),
                    input: Vec::new(),
                    written: 0,
                }
            });
            connection.feed.subscribe(bucket, layout, now);
            self.places[usize::from(bucket)] = Place::Asked(at);
        }
        drop(watching);
        let places = &self.places;
        let is_used = |number: u64| places.iter().any(|it| it.connection() == Some(number));
        // The subscriptions of a connection end with it.
        self.connections.retain(|&number, _| is_used(number));
    }
}
