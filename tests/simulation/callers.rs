//! The library's own client as a client of the simulation: tasks that share a connection, and give
//! up half-way now and then. What they were told is held against the history.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use async_channel::{Receiver, Sender};
use fastrand::Rng;
use futures_lite::{StreamExt as _, future};
use keywire::{
    Client, Error, Event, Outcome, Secret,
    protocol::{Code, Write},
};

use crate::{
    Settings,
    entry::SECRET,
    history::{Record, Tag, What, line_of},
    network::{End, Way},
    sent::Sent,
    world::{Moment, World},
};

/// One command that was asked for.
#[derive(Debug)]
struct Call {
    /// What has a place in the history has a number.
    number: Option<usize>,
    asked: Moment,
    /// Absent where nobody waited for it to the end.
    outcome: Option<(Moment, Outcome)>,
    /// When nobody waited for it any more.
    given_up: Option<Moment>,
    /// It was a pipeline that failed as a whole, which then was not sent.
    unsent: bool,
}

/// What a watcher was told.
#[derive(Debug)]
struct Heard {
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
pub(crate) struct Diary {
    calls: RefCell<Vec<Call>>,
    heard: RefCell<Vec<Heard>>,
    number: Cell<usize>,
    /// Calls under way.
    pub(crate) under_way: Cell<usize>,
}

/// Counts as a call under way while it lives.
struct UnderWay<'a>(&'a Cell<usize>);

impl<'a> UnderWay<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[derive(Clone)]
struct Caller {
    world: World,
    client: Client,
    diary: Rc<Diary>,
    number: usize,
}

/// Notes when a call is given up.
struct Asking<'a> {
    caller: &'a Caller,
    calls: Vec<usize>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let now = self.caller.world.moment();
        let mut calls = self.caller.diary.calls.borrow_mut();
        for &call in &self.calls {
            let call = &mut calls[call];
            call.given_up = call.outcome.is_none().then_some(now);
        }
    }
}

/// Notes when a watcher has gone.
struct Leaving<'a>(&'a Caller, usize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Leaving(Caller { world, diary, .. }, place) = self;
        diary.heard.borrow_mut()[*place].left = Some(world.moment());
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
    end: End,
    number: usize,
    diary: Rc<Diary>,
    mut rng: Rng,
    guarded: bool,
    give: &Sender<Start>,
) {
    let caller = Caller {
        world,
        client: Client::from_stream(end),
        diary,
        number,
    };
    if guarded && !let_in(&caller.client, &mut rng).await {
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
async fn let_in(client: &Client, rng: &mut Rng) -> bool {
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
        let number = self.diary.number.get();
        self.diary.number.set(number + 1);
        (number, format!("{}.{number}", self.number))
    }

    fn ask(&self, number: Option<usize>) -> usize {
        let mut calls = self.diary.calls.borrow_mut();
        calls.push(Call {
            number,
            asked: self.world.moment(),
            outcome: None,
            given_up: None,
            unsent: false,
        });
        calls.len() - 1
    }

    fn told(&self, call: usize, outcome: Outcome) {
        let told = (self.world.moment(), outcome);
        self.diary.calls.borrow_mut()[call].outcome = Some(told);
    }

    async fn call(&self, rng: &mut Rng) {
        let key = format!("k{}", rng.u8(..4));
        let client = &self.client;
        let kind = rng.u8(..14);
        if kind >= 12 {
            return self.watch(rng).await;
        }
        if kind >= 9 {
            return self.pipeline(rng).await;
        }
        let _under_way = UnderWay::new(&self.diary.under_way);
        let (number, tag) = self.tag();
        let tagged = format!("{key}#{tag}");
        let call = self.ask((kind < 7).then_some(number));
        // Dropped after the call itself.
        let _asking = Asking {
            caller: self,
            calls: vec![call],
        };
        let empty = |result: Result<(), Error>| result.map(|()| Vec::new());
        let outcome = match kind {
            0..=1 => empty(client.put(tagged, &tag).await),
            2 => empty(client.put("w", &tag).await),
            3 => empty(client.update(tagged, "old", &tag).await),
            4 => empty(client.delete(tagged).await),
            5..=6 => client.get(tagged).await,
            7 => empty(client.sync().await),
            _ => client.stats().await.map(|_| Vec::new()),
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
        let _under_way = UnderWay::new(&self.diary.under_way);
        call.await
    }

    async fn pipeline(&self, rng: &mut Rng) {
        let mut asking = Asking {
            caller: self,
            calls: Vec::new(),
        };
        let mut pipeline = self.client.pipeline();
        for _ in 0..rng.usize(..10) {
            let (number, tag) = self.tag();
            let key = format!("k{}#{tag}", rng.u8(..4));
            asking.calls.push(self.ask(Some(number)));
            pipeline = match rng.u8(..6) {
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
                let mut diary = self.diary.calls.borrow_mut();
                calls.for_each(|call| diary[call].unsent = true);
            }
        }
    }

    async fn watch(&self, rng: &mut Rng) {
        let name = ["w", "k0", "k1#", "k", ""][rng.usize(..5)];
        let prefix = name.is_empty() || rng.bool();
        let place = {
            let mut heard = self.diary.heard.borrow_mut();
            heard.push(Heard {
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
        let _leaving = Leaving(self, place);
        let under_way = UnderWay::new(&self.diary.under_way);
        let watcher = match prefix {
            true => self.client.watch_prefix(name).await,
            false => self.client.watch(name).await,
        };
        drop(under_way);
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => return check_error(&error),
        };
        self.diary.heard.borrow_mut()[place].begun = Some(self.world.moment());
        for _ in 0..rng.usize(..30) {
            let time = Duration::from_millis(rng.u64(..2000));
            let over = async {
                self.world.sleep(time).await;
                None
            };
            match future::or(watcher.next(), over).await {
                Some(Ok(event)) => self.diary.heard.borrow_mut()[place].events.push(event),
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

/// Nothing else can go wrong here.
fn check_error(error: &Error) {
    let known = matches!(
        error,
        Error::Refused { .. } | Error::Unconfirmed { .. } | Error::RepliesDropped { .. }
    );
    assert!(
        known || matches!(error, Error::Disconnected(_)),
        "a client was told: {error}"
    );
}

/// Panics where a caller was told what the history does not bear out.
pub(crate) fn check_calls(
    client: usize,
    diary: &Diary,
    record: &Record,
    by_tag: &HashMap<Tag, usize>,
    settings: &Settings,
    up: &Way,
) {
    for call in diary.calls.borrow().iter() {
        let place = call.number.and_then(|number| by_tag.get(&(client, number)));
        let entry = place.map(|&place| &record.entries[place]);
        let what = entry.map(|entry| &entry.what);
        assert!(
            !call.unsent || entry.is_none(),
            "not sent, and applied: {call:?}"
        );
        if let (Some(number), Some(given_up)) = (call.number, call.given_up) {
            // A command that was given up before it was sent is not sent.
            let is_it = |sent| matches!(sent, Sent::Command(other) if other == number);
            let line = up
                .lines
                .iter()
                .find(|line| is_it(Sent::of(&line.text, settings.secret)));
            let late = line.is_some_and(|line| line.offered > given_up);
            assert!(!late, "given up, and sent: {call:?}");
        }
        let Some((told, outcome)) = &call.outcome else {
            continue;
        };
        if let Some(entry) = entry {
            // What was under way when the connection broke may be applied later.
            let broke = matches!(outcome, Err(Error::Disconnected(_)));
            assert!(
                call.asked < entry.at && (broke || entry.answered < *told),
                "{call:?}"
            );
        }
        match (outcome, what) {
            (Ok(values), Some(What::Read(lines))) => {
                let value = |line: &'_ [u8]| {
                    let colon = line.iter().position(|&byte| byte == b':');
                    line[colon.unwrap() + 1..].to_vec()
                };
                assert!(
                    values
                        .iter()
                        .cloned()
                        .eq(lines.iter().map(|line| value(line))),
                    "{call:?}, not {lines:?}"
                );
            }
            (Ok(values), Some(What::Written(..))) => assert!(values.is_empty()),
            (Ok(_), what) => {
                assert!(
                    call.number.is_none() && what.is_none(),
                    "{call:?}: {what:?}"
                );
            }
            (Err(Error::RepliesDropped { lines }), Some(What::Read(read))) => {
                assert_eq!(*lines, read.len() as u64, "{call:?}");
            }
            (Err(Error::Refused { code, .. }), what) => match code {
                Code::Store => assert!(matches!(what, Some(What::Failed)), "{call:?}: {what:?}"),
                // There was no place for the connection.
                Code::Full if settings.max_clients < usize::MAX && what.is_none() => {}
                Code::Full => assert!(matches!(what, Some(What::Full(_))), "{call:?}: {what:?}"),
                Code::TooLong if settings.is_strict() => {}
                Code::Closing if settings.idle < Duration::MAX => {}
                Code::Closing => {
                    // A read may have come to the store, and its fence not.
                    assert!(
                        matches!(what, None | Some(What::Read(_))) && *told > settings.stopped,
                        "{call:?}: {what:?}"
                    );
                }
                _ => panic!("{call:?}"),
            },
            (Err(Error::Unconfirmed { .. }), _) => {
                let idle = settings.idle < Duration::MAX;
                assert!(*told > settings.stopped || settings.is_strict() || idle);
            }
            (Err(Error::Disconnected(_)), _) => {}
            _ => panic!("{call:?}: {what:?}"),
        }
    }
    // What is missed is missed by all watches of a connection.
    let all_heard = diary.heard.borrow();
    for heard in all_heard.iter() {
        check_heard(client, heard, all_heard.len() == 1, record);
        check_left(client, heard, diary, up);
    }
}

fn check_heard(client: usize, heard: &Heard, alone: bool, record: &Record) {
    let fits = |key: &[u8]| match heard.prefix {
        true => key.starts_with(&heard.name),
        false => *key == heard.name[..],
    };
    let changes = record.entries.iter().filter_map(|entry| match &entry.what {
        What::Written(key, line) if fits(key) => Some((entry, line)),
        _ => None,
    });
    let mut changes = changes.peekable();
    // What was made while the watch began may be told or not.
    let (mut unheard, mut doubtful) = (0, 0);
    let mut missed = 0;
    for event in &heard.events {
        let line = line_of(match event {
            Event::Put { key, value } => Write::Put { key, value },
            Event::Update { key, old, new } => Write::Update { key, old, new },
            Event::Delete { key } => Write::Delete { key },
            Event::Missed(more) => {
                missed += more;
                continue;
            }
            _ => panic!("{event:?}"),
        });
        loop {
            let Some((entry, told)) = changes.next() else {
                panic!("client {client} was told of {event:?}: {heard:?}");
            };
            if *told == line {
                assert!(heard.asked < entry.at);
                break;
            }
            unheard += u64::from(heard.begun.is_some_and(|begun| begun < entry.at));
            doubtful += u64::from(heard.asked < entry.at);
        }
        assert!(
            unheard <= missed && (missed <= doubtful || !alone),
            "client {client} did not hear of {unheard} to {doubtful}, told of {missed}: {heard:?}"
        );
    }
}

/// When the last watcher of its kind has gone, the watch ends before anything else is answered.
fn check_left(client: usize, heard: &Heard, diary: &Diary, up: &Way) {
    let all = diary.heard.borrow();
    let same = all
        .iter()
        .filter(|other| (&other.name, other.prefix) == (&heard.name, heard.prefix));
    let left = |heard: &Heard| heard.left.unwrap_or(Moment::NEVER);
    let gone = same.clone().map(left).max().unwrap_or(Moment::NEVER);
    let calls = diary.calls.borrow();
    let answered = calls.iter().filter(|call| call.asked > gone);
    let answered = answered.filter_map(|call| match call.outcome {
        Some((told, Ok(_))) => Some(told),
        _ => None,
    });
    let Some(answered) = answered.min() else {
        return;
    };
    let last = |word: &[u8]| {
        let kind: &[u8] = if heard.prefix { b"Prefix:" } else { b":" };
        let text = [word, kind, &heard.name[..]].concat();
        let lines = up.lines.iter().filter(|line| line.begun < answered);
        lines
            .filter(|line| line.text == text)
            .map(|line| line.begun)
            .max()
    };
    assert!(
        last(b"Watch") <= last(b"Unwatch"),
        "client {client} still watches: {heard:?}"
    );
}
