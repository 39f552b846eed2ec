//! The load: each client has one batch on its way. In the closed loop it sends the next when it has
//! every reply to the last; in the open loop when that is done and the next is due.

use std::{
    error::Error,
    io::ErrorKind,
    iter,
    time::{Duration, Instant},
};

use fastrand::Rng;
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::{
    client::{Client, Received},
    connect::{PATIENCE, Target},
    cpu::Process,
    plan::Plan,
    schedule::Schedule,
    work::Work,
};

/// How long the last replies may take to come, after the measured time.
const LAST_REPLIES: Duration = Duration::from_secs(60);

/// Few events at a time, so that a reply is not long in coming to its turn.
const EVENTS: usize = 256;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Operations answered in the measured time.
    pub(crate) operations: u64,
    /// What was measured; less than planned where the run broke off.
    pub(crate) elapsed: Duration,
    /// Nanoseconds from sending a batch, or from when it was due, to its last reply.
    pub(crate) latency: Histogram<u64>,
    /// The same of the writers, who are in no other figure.
    pub(crate) written: u64,
    pub(crate) write_latency: Histogram<u64>,
    /// Batches that each client had answered in the measured time.
    pub(crate) turns: Vec<u64>,
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) load_cpu: Option<Duration>,
    /// Clients that never read and are connected still.
    pub(crate) unread: usize,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

/// A moment of the run, and the CPU time used until then.
struct Mark {
    at: Instant,
    server: Option<Duration>,
    load: Option<Duration>,
}

impl Mark {
    fn now(server: Option<&Process>) -> Mark {
        Mark {
            at: Instant::now(),
            server: server.and_then(Process::time),
            load: Process::this().time(),
        }
    }
}

/// All clients, and what they have seen.
pub(crate) struct Load<'a> {
    work: &'a Work,
    /// What the writers do.
    writes: Work,
    plan: &'a Plan,
    poll: Poll,
    /// Those that ask and read, then the writers, then those that never read; none where a client
    /// is lost.
    clients: Vec<Option<Client>>,
    /// Clients with a batch on its way.
    busy: usize,
    /// Whether a client that has every reply sends its next batch.
    going_on: bool,
    /// When it may do so, in the open loop.
    schedule: Option<Schedule>,
    last_reply: Instant,
    input: Vec<u8>,
    output: Vec<u8>,
    operations: u64,
    latency: Histogram<u64>,
    written: u64,
    write_latency: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

impl<'a> Load<'a> {
    pub(crate) fn connect(
        target: &Target,
        plan: &'a Plan,
        work: &'a Work,
    ) -> Result<Load<'a>, Box<dyn Error>> {
        let mut poll = Poll::new()?;
        let sockets = target.connect(plan.answered(), plan.never_read as usize, &mut poll)?;
        let mut seeds = Rng::with_seed(plan.seed);
        let clients = sockets.into_iter().enumerate().map(|(index, socket)| {
            let reads = index < plan.answered();
            Some(Client::new(socket, seeds.fork(), reads))
        });
        // From 100 ns to 100 s, to three digits.
        let latency = Histogram::new_with_bounds(100, 100_000_000_000, 3)?;
        Ok(Load {
            work,
            writes: work.all_writes(),
            plan,
            clients: clients.collect(),
            poll,
            busy: 0,
            going_on: true,
            schedule: None,
            last_reply: Instant::now(),
            input: vec![0; 128 << 10],
            output: Vec::new(),
            operations: 0,
            written: 0,
            write_latency: latency.clone(),
            latency,
            errors: 0,
            first_error: None,
        })
    }

    /// Works for the planned time, and on until every batch is answered. The clients stay
    /// connected until the load is dropped.
    pub(crate) fn run(&mut self, server: Option<&Process>) -> Outcome {
        let mut events = Events::with_capacity(EVENTS);
        let Plan {
            warmup, seconds, ..
        } = *self.plan;
        let (readers, answered) = (self.plan.clients as usize, self.plan.answered());
        self.going_on = true;
        for client in answered..self.clients.len() {
            self.send(client, Instant::now());
        }
        if let Some(rate) = self.plan.rate {
            let batches = f64::from(rate) / f64::from(self.plan.depth);
            self.schedule = Some(Schedule::new(batches, self.plan.clients, warmup, seconds));
        } else {
            (0..readers).for_each(|client| self.send(client, Instant::now()));
        }
        (readers..answered).for_each(|client| self.send(client, Instant::now()));

        self.work_until(Instant::now() + warmup, &mut events);
        (self.operations, self.written) = (0, 0);
        self.latency.reset();
        self.write_latency.reset();
        let turns = self.turns();
        let before = Mark::now(server);
        self.work_until(before.at + seconds, &mut events);
        let after = Mark::now(server);
        let turns =
            iter::zip(self.turns(), turns).map(|(after, before)| after.saturating_sub(before));
        let turns = turns.collect();
        let (operations, written) = (self.operations, self.written);
        let write_latency = self.write_latency.clone();
        let closed = self.schedule.is_none().then(|| self.latency.clone());

        // A reply that never comes shows now that there are no others. In the open loop what was
        // due before is sent still, and counts.
        self.going_on = false;
        self.work_until(after.at + LAST_REPLIES, &mut events);
        if self.busy > 0 {
            let seconds = self.last_reply.elapsed().as_secs();
            self.fail(format!(
                "{} clients wait for replies, the last came {seconds} s ago",
                self.busy
            ));
        }

        let used = |before: Option<Duration>, after: Option<Duration>| after?.checked_sub(before?);
        Outcome {
            operations,
            elapsed: after.at - before.at,
            latency: closed.unwrap_or_else(|| self.latency.clone()),
            written,
            write_latency,
            turns,
            server_cpu: used(before.server, after.server),
            load_cpu: used(before.load, after.load),
            unread: self.clients[answered..].iter().flatten().count(),
            errors: self.errors,
            first_error: self.first_error.clone(),
        }
    }

    fn turns(&self) -> Vec<u64> {
        let readers = &self.clients[..self.plan.clients as usize];
        let turns = readers
            .iter()
            .map(|client| client.as_ref().map_or(0, |client| client.turns));
        turns.collect()
    }

    /// Returns early where no batch is on its way any more, or no reply comes any more.
    fn work_until(&mut self, end: Instant, events: &mut Events) {
        loop {
            let now = Instant::now();
            self.send_due(now);
            let pause = self
                .schedule
                .as_ref()
                .and_then(|schedule| schedule.pause(now));
            let silent = now.saturating_duration_since(self.last_reply);
            let idle = self.busy == 0;
            if now >= end || (idle && pause.is_none()) || (!idle && silent >= PATIENCE) {
                return;
            }
            let time = if idle {
                end - now
            } else {
                (end - now).min(PATIENCE - silent)
            };
            let time = time.min(pause.unwrap_or(time));
            let polled = self.poll.poll(events, Some(time));
            for event in &*events {
                let Token(client) = event.token();
                let ends = event.is_read_closed() || event.is_error();
                self.attend(client, ends);
            }
            if let Err(error) = polled
                && error.kind() != ErrorKind::Interrupted
            {
                self.fail(format!("can't wait for events: {error}"));
                return;
            }
        }
    }

    /// Reads and writes what can be read and written.
    fn attend(&mut self, index: usize, ends: bool) {
        let writes = self.writes(index);
        let work = if writes { &self.writes } else { self.work };
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        if !client.reads {
            // What a client loses that never reads is no one's error; it may be disconnected.
            if ends || client.flush().is_err() {
                self.clients[index] = None;
            }
            return;
        }
        let attended = client
            .flush()
            .map_err(|error| error.to_string())
            .and_then(|()| client.receive(work, &mut self.input, ends));
        match attended {
            Ok(Received::Nothing) => {}
            Ok(Received::Some) => self.last_reply = Instant::now(),
            Ok(Received::All) => {
                self.last_reply = Instant::now();
                client.waits = false;
                client.turns += 1;
                let (asked, turns) = (client.asked, client.turns);
                self.busy -= 1;
                let operations = u64::from(self.depth(index));
                match writes {
                    true => self.written += operations,
                    false => self.operations += operations,
                }
                let Some(schedule) = self.schedule.as_ref().filter(|_| !writes) else {
                    self.record(asked, writes);
                    if self.going_on {
                        self.send(index, self.last_reply);
                    }
                    return;
                };
                let late = schedule
                    .due(index, turns)
                    .filter(|&due| due <= self.last_reply);
                if schedule.measures(asked) {
                    self.record(asked, writes);
                }
                if let Some(due) = late {
                    self.send(index, due);
                }
            }
            Err(error) => self.lose(index, &error),
        }
    }

    fn record(&mut self, asked: Instant, writes: bool) {
        let latency = self.last_reply.saturating_duration_since(asked);
        let all = match writes {
            true => &mut self.write_latency,
            false => &mut self.latency,
        };
        all.saturating_record(latency.as_nanos() as u64);
    }

    fn writes(&self, index: usize) -> bool {
        (self.plan.clients as usize..self.plan.answered()).contains(&index)
    }

    /// Sends what has become due. A client that still waits sends when it has its replies.
    fn send_due(&mut self, now: Instant) {
        while let Some((index, batch)) = self.schedule.as_mut().and_then(|all| all.pop(now)) {
            let client = self.clients[index].as_ref();
            if client.is_some_and(|client| !client.waits && client.turns == batch) {
                let due = self.schedule.as_ref().and_then(|all| all.due(index, batch));
                self.send(index, due.unwrap_or(now));
            }
        }
    }

    fn depth(&self, index: usize) -> u32 {
        let plan = self.plan;
        match index {
            0 => plan.first_depth.unwrap_or(plan.depth),
            _ if index < plan.answered() => plan.depth,
            _ => plan.unread,
        }
    }

    /// Sends a client's next batch.
    fn send(&mut self, index: usize, asked: Instant) {
        let (depth, writes) = (self.depth(index), self.writes(index));
        let work = if writes { &self.writes } else { self.work };
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        if self.busy == 0 {
            // Until now there was no reply to wait for.
            self.last_reply = Instant::now();
        }
        client.asked = asked;
        let reads = client.reads;
        let sent = client.send(work, depth, &mut self.output);
        self.busy += usize::from(client.waits);
        match sent {
            Ok(()) => {}
            Err(error) if reads => self.lose(index, &error.to_string()),
            Err(_) => self.clients[index] = None,
        }
    }

    /// A client that was answered wrongly, or not at all, is out of step with the server.
    fn lose(&mut self, index: usize, error: &str) {
        if let Some(client) = self.clients[index].take() {
            self.busy -= usize::from(client.waits);
            self.fail(format!("client {}: {error}", index + 1));
        }
    }

    fn fail(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }
}
