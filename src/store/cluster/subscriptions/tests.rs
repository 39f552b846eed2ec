use std::{future::pending, task::Waker};

use futures_lite::{StreamExt as _, future};

use super::*;
use crate::{
    clock::SystemClock,
    protocol::Topic,
    store::cluster::{
        layout::Layout,
        router::{Config, Router},
        stream::Connector,
        watching::Changes,
    },
};

const HELLO: &str = "%1\r\n$5\r\nproto\r\n:3\r\n";

/// One that knows of no slots, and knows this node.
fn subscriptions() -> (Subscriptions, Arc<Shared>, usize) {
    let now = Instant::now();
    let config = Config {
        timeout: Duration::from_secs(1),
        replicas: 0,
        auth: None,
        load: Vec::new(),
    };
    let mut router = Router::new(config, now);
    let host = "node".into();
    let node = router.node(&Address { host, port: 1 }, now);
    let layout = Layout::new(b"k:", b"");
    let shared = Arc::new(Shared::new(layout, Connector::default(), router));
    let subscriptions = Subscriptions::new(shared.clone(), Arc::new(SystemClock));
    (subscriptions, shared, node)
}

/// No map names it, and it is not to be forgotten: its place would be another's.
#[test]
fn a_node_that_a_slot_is_being_moved_to_is_of_use() {
    let (mut subscriptions, shared, node) = subscriptions();
    let _wanted = shared.watching.wanted(Topic::Key(b"k"));
    let bucket = usize::from(crate::store::cluster::slots::bucket(b"k"));
    subscriptions.buckets[bucket].asked = Some(node);
    let later = Instant::now() + Duration::from_secs(60);
    subscriptions.assign(later, &mut Context::from_waker(Waker::noop()));
    assert_eq!(shared.state().router.nodes[node].used_at, later);
    assert_eq!(subscriptions.connections.len(), 1);
}

/// A bucket that is subscribed on a connection whose messages the test gives.
struct Moving {
    subscriptions: Subscriptions,
    shared: Arc<Shared>,
    bucket: u16,
    now: Instant,
}

impl Moving {
    /// Subscribes at a node of this history, the next time at another.
    fn subscribe(&mut self, history: &str) -> u64 {
        let Self {
            subscriptions,
            shared,
            bucket,
            now,
        } = self;
        let number = subscriptions.next_connection;
        subscriptions.next_connection += 1;
        let mut feed = Feed::new(None, *now);
        feed.subscribe(*bucket, false, &shared.layout, *now);
        let connection = Connection::new(Box::pin(pending()), 0, feed);
        subscriptions.connections.insert(number, connection);
        subscriptions.buckets[usize::from(*bucket)].place = Place::Asked(number);
        let info = format!("master_replid:{history}\r\n");
        let channel = format!("k:{{{bucket}}}#ch");
        let subscribed = format!(
            ">3\r\n$10\r\nssubscribe\r\n${}\r\n{channel}\r\n:1\r\n",
            channel.len()
        );
        let info = format!("${}\r\n{info}\r\n", info.len());
        self.hear(number, &[HELLO, &info, &subscribed].concat());
        number
    }

    /// Whether a subscription was lost.
    fn hear(&mut self, connection: u64, message: &str) -> bool {
        let it = self.subscriptions.connections.get_mut(&connection).unwrap();
        it.input.extend_from_slice(message.as_bytes());
        self.subscriptions.handle(connection, self.now).unwrap()
    }
}

/// It moves with its number. If that is as before, nothing was missed; but only if it was live until then.
#[test]
fn a_bucket_that_was_not_live_has_not_moved_with_its_number() {
    for is_live in [true, false] {
        let (subscriptions, shared, _) = subscriptions();
        let wanted = shared.watching.wanted(Topic::Key(b"k"));
        let mut moving = Moving {
            subscriptions,
            shared: shared.clone(),
            bucket: crate::store::cluster::slots::bucket(b"k"),
            now: Instant::now(),
        };
        let mut from = moving.subscribe("first");
        assert!(!moving.hear(from, "$1\r\n5\r\n"));
        if !is_live {
            // Others may write meanwhile, in another history.
            moving.subscriptions.close(from, moving.now);
            from = moving.subscribe("second");
        } else {
            let layout = &shared.layout;
            let connection = moving.subscriptions.connections.get_mut(&from).unwrap();
            connection
                .feed
                .ask_number(moving.bucket, false, layout, moving.now);
        }
        assert!(moving.hear(from, "-ASK 12 node:2\r\n"));
        let to = moving.subscribe("third");
        assert!(!moving.hear(to, "$1\r\n5\r\n"));
        assert!(shared.watching.lock().sequencer.is_live(moving.bucket));
        let mut changes = Changes(shared.watching.clone());
        let missed = future::block_on(future::poll_once(changes.next())).flatten();
        assert_eq!(missed.is_some(), !is_live);
        drop(wanted);
    }
}
