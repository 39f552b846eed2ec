//! Rules of the router, one by one. All of them together: `simulation.rs`.

mod map;
mod replicas;

use std::time::{Duration, Instant};

use super::{
    super::{
        job::{Job, Outcome},
        layout::Layout,
        node::{FIRST_BACKOFF, NODE_BYTES},
        resp,
        slots::{self, Address, SLOTS, SlotRange},
    },
    Config, PARTED_BACKOFF, Router, TICK,
};
use crate::protocol::{Operation, Write};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster of one node, which is connected. The test gives its replies.
struct Fixture {
    router: Router,
    layout: Layout,
    now: Instant,
}

fn address(port: u16) -> Address {
    Address {
        host: "node".into(),
        port,
    }
}

/// All slots are of this node.
fn row(port: u16, epoch: Option<u64>) -> SlotRange {
    SlotRange {
        first: 0,
        last: SLOTS - 1,
        master: address(port),
        replicas: Vec::new(),
        epoch,
    }
}

impl Fixture {
    fn new(replicas: usize) -> Self {
        let now = Instant::now();
        let mut load = Vec::new();
        resp::push_command(&mut load, &[b"SCRIPT", b"LOAD", b"x"]);
        let config = Config {
            timeout: TIMEOUT,
            replicas,
            auth: None,
            load,
        };
        let mut router = Router::new(config, now);
        router.on_slots(None, &[row(1, None)], now);
        let (node, _) = router.next_connect().unwrap();
        router.on_connected(node, now);
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let mut fixture = Self {
            router,
            layout,
            now,
        };
        assert_eq!(fixture.written(), ["SCRIPT"]);
        fixture.reply(b"$1\r\nx\r\n");
        fixture
    }

    fn submit(&mut self, operations: &[Operation<'_>]) -> usize {
        let job = Job::new(operations, &self.layout, usize::MAX, |_| false);
        self.router.submit(job, self.now)
    }

    fn reply(&mut self, reply: &[u8]) {
        self.router.on_read(0, self.now);
        self.router.on_reply(0, reply, self.now).unwrap();
    }

    /// The names of the commands that are written.
    fn written(&mut self) -> Vec<String> {
        self.written_to(0)
    }

    fn written_to(&mut self, node: usize) -> Vec<String> {
        let mut out = Vec::new();
        self.router.take_out(node, &mut out, self.now);
        self.router.on_written(node, out.len());
        let mut names = Vec::new();
        while let Some(length) = resp::Scanner::default().scan(&out).unwrap() {
            let Some(resp::Reply::Array(words)) = resp::Reply::parse(&out[..length]) else {
                panic!("no command");
            };
            let name = words.values().next().unwrap().to_vec();
            names.push(String::from_utf8(name).unwrap());
            out.drain(..length);
        }
        names
    }

    /// Lets so much time pass at most, until these are written.
    fn await_written(&mut self, time: Duration, commands: &[&str]) {
        let until = self.now + time + TICK;
        let mut written = Vec::new();
        while written.is_empty() && self.now < until {
            self.now += TICK;
            self.router.on_time(self.now);
            written = self.written();
        }
        assert_eq!(written, commands);
    }

    fn outcomes(&mut self, job: usize) -> Vec<Outcome> {
        let job = self.router.take(job).expect("it is settled");
        let requests = job.requests.into_iter();
        requests.map(|request| request.outcome).collect()
    }
}

fn put(key: &[u8]) -> Operation<'_> {
    Operation::Write(Write::Put { key, value: b"v" })
}

fn get(key: &[u8]) -> Operation<'_> {
    Operation::Get { key }
}

/// Another key of the same bucket.
fn neighbour(key: &[u8]) -> Vec<u8> {
    let mut names = (0..).map(|number: u32| number.to_string().into_bytes());
    let is_neighbour = |name: &Vec<u8>| slots::bucket(name) == slots::bucket(key);
    names.find(is_neighbour).unwrap()
}

#[test]
fn what_another_client_has_overtaken_is_sent_again() {
    let mut node = Fixture::new(0);
    let (one, other) = (node.submit(&[put(b"k")]), node.submit(&[put(b"k")]));
    assert_eq!(node.written(), ["EVALSHA", "EVALSHA"]);
    node.reply(b"-NOSCRIPT x\r\n");
    // Another server has loaded it between the two.
    node.reply(b"*1\r\n:1\r\n");
    assert_eq!(node.outcomes(other), [Outcome::Reply(0..8)]);
    assert_eq!(node.written(), ["SCRIPT", "EVALSHA"]);
    node.reply(b"$1\r\nx\r\n");
    node.reply(b"*1\r\n:2\r\n");
    assert_eq!(node.outcomes(one), [Outcome::Reply(0..8)]);
}

#[test]
fn what_the_same_client_has_overtaken_fails() {
    let mut node = Fixture::new(0);
    let neighbour = neighbour(b"k");
    let job = node.submit(&[get(b"k"), get(&neighbour), put(b"k")]);
    assert_eq!(node.written(), ["LRANGE", "EVALSHA"]);
    node.reply(b"-TRYAGAIN x\r\n");
    node.reply(b"*2\r\n*2\r\n:0\r\n*0\r\n:1\r\n");
    let outcomes = node.outcomes(job);
    assert!(matches!(outcomes[0], Outcome::Failed(_)), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Reply(_)), "{outcomes:?}");
    node.router.on_time(node.now + TIMEOUT / 2);
    assert!(!node.written().contains(&"LRANGE".into()));
}

/// Its bytes may have been written, so it may have been applied.
#[test]
fn a_write_that_was_sent_is_never_sent_again() {
    let mut node = Fixture::new(0);
    let (write, read) = (node.submit(&[put(b"k")]), node.submit(&[get(b"k")]));
    assert_eq!(node.written(), ["EVALSHA", "LRANGE"]);
    let late = node.submit(&[put(b"k")]);
    node.router.on_closed(0, node.now);
    let outcomes = node.outcomes(write);
    assert!(
        matches!(outcomes[..], [Outcome::Unconfirmed(_)]),
        "{outcomes:?}"
    );
    node.now += TIMEOUT / 2;
    node.router.on_time(node.now);
    let (again, _) = node.router.next_connect().unwrap();
    node.router.on_connected(again, node.now);
    assert_eq!(node.written(), ["SCRIPT"]);
    node.reply(b"$1\r\nx\r\n");
    // The read, and the write that had not been written.
    let written = node.written();
    assert_eq!(&written[written.len() - 2..], ["LRANGE", "EVALSHA"]);
    assert!(node.router.take(read).is_none() && node.router.take(late).is_none());
}

#[test]
fn a_reply_that_is_too_long_fails_only_its_request() {
    let mut node = Fixture::new(0);
    let (long, other) = (node.submit(&[get(b"k")]), node.submit(&[get(b"k")]));
    assert_eq!(node.written(), ["LRANGE", "LRANGE"]);
    node.router.on_long_reply(0, node.now).unwrap();
    let outcomes = node.outcomes(long);
    assert!(matches!(outcomes[..], [Outcome::Failed(_)]), "{outcomes:?}");
    // The next reply is that of the next request.
    assert!(node.router.take(other).is_none());
    node.reply(b"*0\r\n");
    assert_eq!(node.outcomes(other), [Outcome::Reply(0..4)]);
}

#[test]
fn what_waits_for_a_node_that_is_gone_is_kept_no_longer_than_its_time() {
    let mut fixture = Fixture::new(0);
    fixture.router.on_closed(0, fixture.now);
    for _ in 0..3 {
        let job = fixture.submit(&[put(b"a"), get(b"b")]);
        fixture.now += TIMEOUT;
        fixture.router.on_time(fixture.now);
        let outcomes = fixture.outcomes(job);
        let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
        assert!(outcomes.iter().all(failed), "{outcomes:?}");
    }
    assert!(fixture.router.jobs.is_empty());
    assert!(fixture.router.nodes[0].waiting.is_empty());
}

/// It would fail the other, whose turn is over then.
#[test]
fn what_waits_for_room_stays_behind_what_has_come_back() {
    let mut node = Fixture::new(0);
    let long = vec![b'x'; NODE_BYTES];
    let (key, value) = (&b"k"[..], &long[..]);
    let mut operations = vec![Operation::Write(Write::Put { key, value })];
    // More than one script holds.
    operations.extend([put(key); 64]);
    let job = node.submit(&operations);
    assert_eq!(node.written(), ["EVALSHA"]);
    node.reply(b"-TRYAGAIN x\r\n");
    assert!(node.written().is_empty());
    node.await_written(PARTED_BACKOFF, &["EVALSHA"]);
    assert_eq!(node.written(), ["EVALSHA"]);
    node.reply(b"*1\r\n:1\r\n");
    node.reply(b"*1\r\n:2\r\n");
    assert_eq!(
        node.outcomes(job),
        [Outcome::Reply(0..8), Outcome::Reply(8..16)]
    );
}

/// The first may still be applied where it is.
#[test]
fn writes_of_a_key_are_on_one_node_at_a_time() {
    let mut node = Fixture::new(0);
    node.submit(&[put(b"k")]);
    assert_eq!(node.written(), ["EVALSHA"]);
    node.router.on_slots(None, &[row(2, None)], node.now);
    let (next, _) = node.router.next_connect().unwrap();
    node.router.on_connected(next, node.now);
    let loaded = b"$1\r\nx\r\n";
    node.router.on_reply(next, loaded, node.now).unwrap();
    node.written_to(next);
    node.submit(&[put(b"k")]);
    let read = node.submit(&[get(b"k")]);
    assert!(node.written_to(next).is_empty());
    assert!(node.router.take(read).is_none());
    node.reply(b"*1\r\n:1\r\n");
    assert_eq!(node.written_to(next), ["EVALSHA", "LRANGE"]);
}

/// While a slot moves, and the bucket's number is on one node and a key on another.
#[test]
fn a_key_that_is_apart_holds_up_no_other_key_of_its_bucket() {
    let mut node = Fixture::new(0);
    let neighbour = neighbour(b"k");
    let apart = node.submit(&[put(b"k")]);
    assert_eq!(node.written(), ["EVALSHA"]);
    node.reply(b"-TRYAGAIN x\r\n");
    let behind = node.submit(&[put(b"k")]);
    assert!(node.written().is_empty());
    let other = node.submit(&[put(&neighbour)]);
    assert_eq!(node.written(), ["EVALSHA"]);
    let mut last = node.now;
    for _ in 0..20 {
        // Others of its bucket are always under way.
        node.await_written(PARTED_BACKOFF, &["EVALSHA"; 2]);
        assert!(node.now - last >= FIRST_BACKOFF);
        last = node.now;
        node.reply(b"*1\r\n:1\r\n");
        node.submit(&[put(&neighbour)]);
        assert_eq!(node.written(), ["EVALSHA"]);
        node.reply(b"-TRYAGAIN x\r\n");
        node.reply(b"-TRYAGAIN x\r\n");
    }
    assert_eq!(node.outcomes(other), [Outcome::Reply(0..8)]);
    // It has moved.
    node.reply(b"*1\r\n:1\r\n");
    node.await_written(PARTED_BACKOFF, &["EVALSHA"; 2]);
    node.reply(b"*1\r\n:2\r\n");
    assert_eq!(node.outcomes(apart), [Outcome::Reply(0..8)]);
    node.reply(b"*1\r\n:3\r\n");
    assert_eq!(node.outcomes(behind), [Outcome::Reply(0..8)]);
}

#[test]
fn a_script_that_many_requests_have_missed_is_loaded_once() {
    let mut node = Fixture::new(0);
    let jobs: Vec<_> = (0..10).map(|_| node.submit(&[put(b"k")])).collect();
    assert_eq!(node.written().len(), jobs.len());
    for _ in &jobs {
        node.reply(b"-NOSCRIPT x\r\n");
    }
    let written = node.written();
    assert_eq!(written[..2], ["SCRIPT", "EVALSHA"]);
    assert_eq!(written.len(), 1 + jobs.len());
    node.reply(b"$1\r\nx\r\n");
    for job in jobs {
        node.reply(b"*1\r\n:1\r\n");
        assert_eq!(node.outcomes(job), [Outcome::Reply(0..8)]);
    }
}

/// However long it is away, and however often it is tried meanwhile.
#[cfg(feature = "tracing")]
#[test]
fn a_node_that_goes_and_comes_back_is_logged_once_each_time() {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let written = Written::default();
    let writer = written.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let log = log.with_ansi(false).without_time().finish();
    // With one subscriber only, `tracing` takes that of the thread that comes to an event first for all: other
    // tests have none.
    let none = tracing::subscriber::NoSubscriber::default();
    let _second = tracing::Dispatch::new(none);
    tracing::subscriber::with_default(log, || {
        let mut fixture = Fixture::new(0);
        fixture.router.on_closed(0, fixture.now);
        for _ in 0..3 {
            fixture.now += TIMEOUT;
            fixture.router.on_time(fixture.now);
            let (node, _) = fixture.router.next_connect().unwrap();
            fixture.router.on_closed(node, fixture.now);
        }
        fixture.now += TIMEOUT;
        fixture.router.on_time(fixture.now);
        let (node, _) = fixture.router.next_connect().unwrap();
        fixture.router.on_connected(node, fixture.now);
        assert_eq!(fixture.written(), ["SCRIPT"]);
        fixture.reply(b"$1\r\nx\r\n");
    });
    let written = written.0.lock().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&written),
        " INFO keywire: connected to a node of the cluster node=node:1\n \
         WARN keywire: the connection to a node of the cluster is lost node=node:1\n \
         INFO keywire: connected to a node of the cluster node=node:1\n"
    );
}
