//! The library's own client as a client of the simulation: tasks that share a connection, and give
//! up half-way now and then. What they were told is held against the history.

mod check;

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use async_channel::{Receiver, Sender};
pub(crate) use check::check_calls;
use check::check_error;
use fastrand::Rng;
use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Event, Outcome, Secret, protocol::Code};

use crate::{
    admission::SECRET,
    network::Endpoint,
    world::{Moment, World},
};

/// One command that was asked for.
#[derive(Debug)]
struct Call {
    /// What has a place in the history has a number.
    number: Option<usize>,
    asked: Moment,
    /// Absent where nobody waited for it to the end.
    outcome: Option<(Moment, Result<Outcome, Error>)>,
    /// When nobody waited for it any more.
    given_up: Option<Moment>,
    /// It was a pipeline that failed as a whole, which then was not sent.
    unsent: bool,
}

/// What a watcher was told.
#[derive(Debug)]
struct WatchLog {
    name: Vec<u8>,
    prefix: bool,
    asked: Moment,
    /// When the watch had begun.
    begun: Option<Moment>,
    events: Vec<Event>,
    /// When its watcher was gone.
    left: Option<Moment>,
}

/// What the tasks of one connection did.
#[derive(Default)]
pub(crate) struct CallLog {
    calls: RefCell<Vec<Call>>,
    heard: RefCell<Vec<WatchLog>>,
    number: Cell<usize>,
    /// Calls under way.
    pub(crate) in_flight: Cell<usize>,
}

/// Counts as a call under way while it lives.
struct InFlight<'a>(&'a Cell<usize>);

impl<'a> InFlight<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[derive(Clone)]
struct Caller {
    world: World,
    client: Client,
    log: Rc<CallLog>,
    number: usize,
}

/// Notes when a call is given up.
struct CallGuard<'a> {
    caller: &'a Caller,
    calls: Vec<usize>,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        let now = self.caller.world.moment();
        let mut calls = self.caller.log.calls.borrow_mut();
        for &call in &self.calls {
            let call = &mut calls[call];
            call.given_up = call.outcome.is_none().then_some(now);
        }
    }
}

/// Notes when a watcher has gone.
struct WatchGuard<'a>(&'a Caller, usize);

impl Drop for WatchGuard<'_> {
    fn drop(&mut self) {
        let WatchGuard(Caller { world, log, .. }, place) = self;
        log.heard.borrow_mut()[*place].left = Some(world.moment());
    }
}

/// Tasks that share a client.
pub(crate) const TASKS: usize = 3;

/// What one of them needs.
pub(crate) struct Start {
    caller: Caller,
    rng: Rng,
    lazy: bool,
}

/// Makes a client over this connection, and gives it to the tasks that share it.
pub(crate) async fn client(
    world: World,
    end: Endpoint,
    number: usize,
    log: Rc<CallLog>,
    mut rng: Rng,
    guarded: bool,
    give: &Sender<Start>,
) {
    let caller = Caller {
        world,
        client: Client::from_stream(end),
        log,
        number,
    };
    if guarded && !authenticate(&caller.client, &mut rng).await {
        return;
    }
    for _ in 0..TASKS {
        let start = Start {
            caller: caller.clone(),
            rng: rng.fork(),
            lazy: rng.u8(..3) == 0,
        };
        give.try_send(start).expect("room for all");
    }
}

/// Says the secret, and maybe another one first.
async fn authenticate(client: &Client, rng: &mut Rng) -> bool {
    let secret = |text: &str| Secret::new(text).expect("a secret");
    if rng.u8(..4) == 0 {
        let wrong = client.authenticate(&secret("sesame")).await;
        let error = wrong.expect_err("that is not the secret");
        check_error(&error);
        let refused = matches!(
            error,
            Error::Refused {
                code: Code::Unauthorized,
                ..
            }
        );
        if !refused {
            return false;
        }
    }
    match client.authenticate(&secret(SECRET)).await {
        Ok(()) => true,
        Err(error) => {
            check_error(&error);
            false
        }
    }
}

/// One of the tasks, if it comes to that.
pub(crate) async fn work(start: Receiver<Start>) {
    if let Ok(Start { caller, rng, lazy }) = start.recv().await {
        drop(start);
        caller.work(rng, lazy).await;
    }
}

impl Caller {
    async fn work(self, mut rng: Rng, lazy: bool) {
        let most = if lazy { 2 } else { 15 };
        for _ in 0..rng.usize(..most) {
            if rng.u8(..3) == 0 {
                let time = Duration::from_millis(rng.u64(..400));
                self.world.sleep(time).await;
            }
            let patience = (rng.u8(..8) == 0).then(|| rng.u64(..200));
            let over = async {
                match patience {
                    Some(time) => self.world.sleep(Duration::from_millis(time)).await,
                    None => future::pending().await,
                }
            };
            future::or(self.call(&mut rng), over).await;
        }
    }

    fn tag(&self) -> (usize, String) {
        let number = self.log.number.get();
        self.log.number.set(number + 1);
        (number, format!("{}.{number}", self.number))
    }

    fn ask(&self, number: Option<usize>) -> usize {
        let mut calls = self.log.calls.borrow_mut();
        calls.push(Call {
            number,
            asked: self.world.moment(),
            outcome: None,
            given_up: None,
            unsent: false,
        });
        calls.len() - 1
    }

    fn told(&self, call: usize, outcome: Result<Outcome, Error>) {
        let told = (self.world.moment(), outcome);
        self.log.calls.borrow_mut()[call].outcome = Some(told);
    }

    async fn call(&self, rng: &mut Rng) {
        let key = format!("k{}", rng.u8(..4));
        let client = &self.client;
        let kind = rng.u8(..16);
        match kind {
            9..=11 => return self.pipeline(rng).await,
            12..=13 => return self.watch(rng).await,
            _ => {}
        }
        let _in_flight = InFlight::new(&self.log.in_flight);
        let (number, tag) = self.tag();
        let tagged = format!("{key}#{tag}");
        let call = self.ask((!matches!(kind, 7..=8)).then_some(number));
        // Dropped after the call itself.
        let _asking = CallGuard {
            caller: self,
            calls: vec![call],
        };
        let done = |result: Result<(), Error>| result.map(|()| Outcome::Done);
        let outcome = match kind {
            0..=1 => done(client.put(tagged, &tag).await),
            2 => done(client.put("w", &tag).await),
            3 => done(client.update(tagged, "old", &tag).await),
            4 => done(client.delete(tagged).await),
            5..=6 => client.get(tagged).await.map(Outcome::Values),
            14 => done(client.set(tagged, &tag).await),
            15 => done(client.remove(tagged, "old").await),
            7 => done(client.sync().await),
            _ => client.stats().await.map(|_| Outcome::Done),
        };
        self.told(call, outcome);
    }

    /// Waits, but for a while or two in which it does not look. Others do the work then, or nobody.
    async fn with_pauses<T>(&self, call: impl Future<Output = T>, rng: &mut Rng) -> T {
        let mut call = pin!(call);
        for _ in 0..rng.u8(..3) {
            if let Some(done) = future::poll_once(call.as_mut()).await {
                return done;
            }
            let time = Duration::from_millis(rng.u64(..3000));
            self.world.sleep(time).await;
        }
        let _in_flight = InFlight::new(&self.log.in_flight);
        call.await
    }

    async fn pipeline(&self, rng: &mut Rng) {
        let mut asking = CallGuard {
            caller: self,
            calls: Vec::new(),
        };
        let mut pipeline = self.client.pipeline();
        for _ in 0..rng.usize(..10) {
            let (number, tag) = self.tag();
            let key = format!("k{}#{tag}", rng.u8(..4));
            asking.calls.push(self.ask(Some(number)));
            pipeline = match rng.u8(..8) {
                6 => pipeline.set("w", tag),
                7 => pipeline.remove(key, "old"),
                0..=1 => pipeline.put(key, tag),
                2 => pipeline.put("w", tag),
                3 => pipeline.delete(key),
                _ => pipeline.get(key),
            };
        }
        let outcomes = self.with_pauses(pipeline.send(), rng).await;
        let calls = asking.calls.iter().copied();
        match outcomes {
            Ok(outcomes) => {
                assert_eq!(outcomes.len(), calls.len());
                for (call, outcome) in calls.zip(outcomes) {
                    self.told(call, outcome);
                }
            }
            Err(error) => {
                check_error(&error);
                let mut log = self.log.calls.borrow_mut();
                calls.for_each(|call| log[call].unsent = true);
            }
        }
    }

    async fn watch(&self, rng: &mut Rng) {
        let name = ["w", "k0", "k1#", "k", ""][rng.usize(..5)];
        let prefix = name.is_empty() || rng.bool();
        let place = {
            let mut heard = self.log.heard.borrow_mut();
            heard.push(WatchLog {
                name: name.into(),
                prefix,
                asked: self.world.moment(),
                begun: None,
                events: Vec::new(),
                left: None,
            });
            heard.len() - 1
        };
        // Dropped after the watcher.
        let _leaving = WatchGuard(self, place);
        let in_flight = InFlight::new(&self.log.in_flight);
        let watcher = match prefix {
            true => self.client.watch_prefix(name).await,
            false => self.client.watch(name).await,
        };
        drop(in_flight);
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => return check_error(&error),
        };
        self.log.heard.borrow_mut()[place].begun = Some(self.world.moment());
        for _ in 0..rng.usize(..30) {
            let time = Duration::from_millis(rng.u64(..2000));
            let over = async {
                self.world.sleep(time).await;
                None
            };
            match future::or(watcher.next(), over).await {
                Some(Ok(event)) => self.log.heard.borrow_mut()[place].events.push(event),
                Some(Err(error)) => return check_error(&error),
                None => {}
            }
            if rng.u8(..10) == 0 {
                let time = Duration::from_millis(rng.u64(..500));
                self.world.sleep(time).await;
            }
        }
    }
}
