use std::task::Waker;

use super::*;
use crate::{
    clock::SystemClock,
    protocol::Topic,
    store::cluster::{
        layout::Layout,
        router::{Config, Router},
        stream::Connector,
    },
};

/// No map names it, and it is not to be forgotten: its place would be another's.
#[test]
fn a_node_that_a_slot_is_being_moved_to_is_of_use() {
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
    let mut subscriptions = Subscriptions::new(shared.clone(), Arc::new(SystemClock));
    let _wanted = shared.watching.wanted(Topic::Key(b"k"));
    let bucket = usize::from(crate::store::cluster::slots::bucket(b"k"));
    subscriptions.buckets[bucket].asked = Some(node);
    let later = now + Duration::from_secs(60);
    subscriptions.assign(later, &mut Context::from_waker(Waker::noop()));
    assert_eq!(shared.state().router.nodes[node].used_at, later);
    assert_eq!(subscriptions.connections.len(), 1);
}
