//! Keeps each watched bucket subscribed at the node that has it.

mod bucket;
mod connection;
mod retry;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    driver::Shared,
    feed::{Event, Feed},
    slots::{Address, BUCKETS},
};
use crate::Clock;
use bucket::{Bucket, Place};
use connection::Connection;
use retry::Retry;

/// While anything is watched, the time between two looks at what is late.
const TICK: Duration = Duration::from_millis(100);

/// Buckets whose numbers are asked for in each [`AUDIT_TICKS`], so that a change that was lost, or a node that
/// has become a replica, is found also if no other change comes.
const AUDIT_BUCKETS: usize = 64;
const AUDIT_TICKS: u32 = 5;

/// The time after which a node that owes an answer is suspected to have lost its slots.
const SILENCE: Duration = Duration::from_secs(1);

/// Reads of one node before others have their turns.
const READS: usize = 4;

/// Serves the subscriptions, for ever.
pub(super) async fn run(shared: Arc<Shared>, clock: Arc<dyn Clock>) {
    let mut subscriptions = Subscriptions::new(shared, clock);
    poll_fn(|cx| subscriptions.poll(cx)).await
}

struct Subscriptions {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    buckets: Vec<Bucket>,
    /// When a node may be connected to again.
    retries: HashMap<usize, Retry>,
    tick: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ticks: u32,
    next_audited: u16,
}

impl Subscriptions {
    fn new(shared: Arc<Shared>, clock: Arc<dyn Clock>) -> Self {
        Self {
            shared,
            clock,
            connections: HashMap::new(),
            next_connection: 0,
            buckets: vec![Bucket::default(); BUCKETS.into()],
            retries: HashMap::new(),
            tick: None,
            ticks: 0,
            next_audited: 0,
        }
    }

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
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.feed.end_questions(now);
                if let Poll::Ready(Err(_)) = connection.poll_write(cx) {
                    self.close(number, now);
                }
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
        if self.ticks.is_multiple_of(AUDIT_TICKS) {
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
        let known = &self.buckets[usize::from(bucket)];
        let Place::Live(at) = known.place else {
            return false;
        };
        let Some(connection) = self.connections.get_mut(&at) else {
            return false;
        };
        let is_moving = known.asked.is_some();
        let layout = &self.shared.layout;
        connection.feed.ask_number(bucket, is_moving, layout, now);
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
        let mut is_lost = false;
        for _ in 0..READS {
            let Some(connection) = self.connections.get_mut(&number) else {
                return is_lost;
            };
            let handled = match connection.poll_read(cx) {
                Poll::Pending => return is_lost,
                Poll::Ready(read) => read.and_then(|()| self.handle(number, now)),
            };
            match handled {
                Ok(lost) => is_lost |= lost,
                Err(_) => {
                    self.close(number, now);
                    return true;
                }
            }
        }
        cx.waker().wake_by_ref();
        is_lost
    }

    /// Handles the messages that are whole. Whether a subscription was lost.
    fn handle(&mut self, number: u64, now: Instant) -> io::Result<bool> {
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(false);
        };
        let mut is_lost = false;
        let mut moved = Vec::new();
        let mut start = 0;
        let layout = &self.shared.layout;
        let mut watching = self.shared.watching.lock();
        let Connection {
            feed, input, node, ..
        } = connection;
        while start < input.len() {
            let Some(length) = feed.scanner.scan(&input[start..]).map_err(malformed)? else {
                break;
            };
            let message = &input[start..start + length];
            start += length;
            let event = feed.on_message(message, layout, now).map_err(malformed)?;
            let bucket = match event {
                Event::None => continue,
                Event::OtherHistory => {
                    // A number that was asked for is that of the one or of the other.
                    for (bucket, known) in (0..).zip(&mut self.buckets) {
                        known.has_moved = false;
                        if known.place == Place::Live(number) {
                            known.place = Place::Confirmed(number);
                            watching.sequencer.on_lost(bucket);
                            feed.ask_number(bucket, known.asked.is_some(), layout, now);
                        }
                    }
                    continue;
                }
                Event::Subscribed(bucket)
                | Event::Lost(bucket)
                | Event::Elsewhere(bucket, _)
                | Event::Number(bucket, _)
                | Event::Change(bucket, ..) => bucket,
            };
            let known = &mut self.buckets[usize::from(bucket)];
            if known.place.connection() != Some(number) {
                // It is subscribed elsewhere by now, or not at all.
                continue;
            }
            let sequencer = &mut watching.sequencer;
            match event {
                Event::None | Event::OtherHistory => {}
                Event::Subscribed(_) => known.place = Place::Confirmed(number),
                Event::Lost(_) => {
                    known.lose();
                    known.retry.fail(now);
                    sequencer.on_lost(bucket);
                    is_lost = true;
                }
                Event::Elsewhere(_, address) => {
                    let is_live = known.place == Place::Live(number);
                    known.lose();
                    known.has_moved = is_live;
                    known.retry.fail(now);
                    moved.push((bucket, *node, address.to_owned()));
                    feed.unsubscribe(bucket, layout, now);
                    sequencer.on_lost(bucket);
                    is_lost = true;
                }
                Event::Number(_, value) if known.place != Place::Asked(number) => {
                    let is_same = known.history.is_some() && known.history == feed.history;
                    let is_same = std::mem::take(&mut known.has_moved) || is_same;
                    known.history.clone_from(&feed.history);
                    known.place = Place::Live(number);
                    known.retry = Retry::default();
                    self.retries.remove(node);
                    sequencer.on_number(bucket, value, is_same);
                    watching.wake_requests();
                }
                Event::Number(..) => {}
                Event::Change(_, value, line) => sequencer.on_change(bucket, value, line),
            }
        }
        watching.flush();
        input.drain(..start);
        drop(watching);
        for (bucket, node, address) in moved {
            let router = &mut self.shared.state().router;
            let host = &router.nodes[node].address.host;
            let address = Address::parse(&address, host);
            let asked = address.map(|address| router.node(&address, now));
            self.buckets[usize::from(bucket)].asked = asked;
        }
        Ok(is_lost)
    }

    /// The connection is gone, and what was subscribed on it is lost.
    fn close(&mut self, number: u64, now: Instant) {
        let Some(closed) = self.connections.remove(&number) else {
            return;
        };
        self.retries.entry(closed.node).or_default().fail(now);
        let mut watching = self.shared.watching.lock();
        for (bucket, known) in (0..).zip(&mut self.buckets) {
            if known.place.connection() == Some(number) {
                known.lose();
                watching.sequencer.on_lost(bucket);
            }
        }
    }

    /// Subscribes to each bucket that is wanted at the node that has it, and to no other.
    fn assign(&mut self, now: Instant, cx: &mut Context<'_>) {
        let (owners, addresses, auth) = {
            let router = &mut self.shared.state().router;
            // No map may name a node that a slot is being moved to.
            let asked = self.buckets.iter().filter_map(|it| it.asked);
            for node in asked.chain(self.connections.values().map(|it| it.node)) {
                router.nodes[node].used_at = now;
            }
            let owners: Vec<_> = (0..BUCKETS).map(|bucket| router.owner(bucket)).collect();
            let addresses: Vec<_> = router.nodes.iter().map(|it| it.address.clone()).collect();
            (owners, addresses, router.config.auth.clone())
        };
        let shared = self.shared.clone();
        let layout = &shared.layout;
        let mut watching = shared.watching.lock();
        for (bucket, owner) in (0..BUCKETS).zip(owners) {
            let known = &mut self.buckets[usize::from(bucket)];
            if !watching.is_wanted(bucket) || known.asked == owner {
                // If it has come to that owner, the move is over.
                known.asked = None;
            }
            let is_moving = known.asked.is_some();
            let owner = known.asked.or(owner).filter(|_| watching.is_wanted(bucket));
            if let Some(at) = known.place.connection() {
                match self.connections.get_mut(&at) {
                    Some(it) if owner == Some(it.node) => {
                        let is_live = watching.sequencer.is_live(bucket);
                        if matches!(known.place, Place::Live(_)) && !is_live {
                            // It was given up, and is wanted again.
                            it.feed.ask_number(bucket, is_moving, layout, now);
                        }
                        continue;
                    }
                    Some(it) => it.feed.unsubscribe(bucket, layout, now),
                    None => {}
                }
                known.place = Place::None;
                known.has_moved = false;
                watching.sequencer.on_lost(bucket);
            }
            if !watching.is_wanted(bucket) {
                *known = Bucket::default();
                continue;
            }
            let Some(owner) = owner.filter(|_| !known.retry.is_early(now)) else {
                continue;
            };
            let open = self.connections.iter().find(|(_, it)| it.node == owner);
            let open = open.map(|(&at, _)| at);
            let retry = self.retries.get(&owner);
            if open.is_none() && retry.is_some_and(|it| it.is_early(now)) {
                continue;
            }
            let at = open.unwrap_or(self.next_connection);
            let next_connection = &mut self.next_connection;
            let connection = self.connections.entry(at).or_insert_with(|| {
                *next_connection += 1;
                // It is to be polled.
                cx.waker().wake_by_ref();
                let connect = shared.connector.clone().connect(addresses[owner].clone());
                Connection::new(Box::pin(connect), owner, Feed::new(auth.as_deref(), now))
            });
            connection.feed.subscribe(bucket, is_moving, layout, now);
            known.place = Place::Asked(at);
        }
        drop(watching);
        let buckets = &self.buckets;
        let is_used = |at: u64| buckets.iter().any(|it| it.place.connection() == Some(at));
        // The subscriptions of a connection end with it.
        self.connections.retain(|&number, _| is_used(number));
    }
}
