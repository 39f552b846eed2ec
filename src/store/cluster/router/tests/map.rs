//! Which nodes are known, and who is believed.

use std::time::Duration;

use super::{
    super::{FORGET_TIME, REFRESH_INTERVAL, Router, TICK},
    Fixture, TIMEOUT, address, row,
};
use crate::store::cluster::{node::Link, resp, slots};

/// The node that has the bucket is, by all that is known, that at this port.
#[track_caller]
fn assert_owner(router: &Router, port: u16) {
    let owner = router.owner(slots::bucket(b"k")).unwrap();
    assert_eq!(router.nodes[owner].address, address(port));
}

#[test]
fn a_node_with_an_old_map_is_not_believed() {
    let mut fixture = Fixture::new(0);
    let Fixture { router, now, .. } = &mut fixture;
    let now = *now;
    router.on_slots(None, &[row(1, Some(3))], now);
    router.on_slots(None, &[row(2, Some(5))], now);
    assert_owner(router, 2);
    router.on_slots(None, &[row(1, Some(3))], now);
    assert_owner(router, 2);
    // It asks another.
    assert!(router.refresh);
    router.on_slots(None, &[row(2, Some(5))], now);
    assert!(!router.refresh);
    // One that has it not any more says so. Its own epoch is no proof against that, nor is its old map.
    let slot = slots::slot(slots::bucket(b"k"));
    let (one, two) = (router.node(&address(1), now), router.node(&address(2), now));
    let three = router.node(&address(3), now);
    router.on_moved(slot, two, three, now);
    assert_owner(router, 3);
    router.on_slots(None, &[row(2, Some(5))], now);
    assert_owner(router, 3);
    // Of one that was not believed to have it, this is nothing new.
    router.on_moved(slot, one, two, now);
    assert_owner(router, 3);
    router.on_slots(None, &[row(1, Some(6))], now);
    assert_owner(router, 1);
}

/// A cluster may have been made anew.
#[test]
fn an_old_map_is_better_than_an_owner_that_is_gone() {
    let mut fixture = Fixture::new(0);
    fixture
        .router
        .on_slots(None, &[row(1, Some(9))], fixture.now);
    let until = fixture.now + Duration::from_secs(5);
    while fixture.now < until {
        fixture.now += TICK;
        fixture.router.on_time(fixture.now);
        while let Some((node, _)) = fixture.router.next_connect() {
            fixture.router.on_closed(node, fixture.now);
        }
        if fixture.router.nodes[0].link == Link::Up {
            fixture.router.on_closed(0, fixture.now);
            fixture
                .router
                .on_slots(None, &[row(2, Some(1))], fixture.now);
            assert_owner(&fixture.router, 1);
        }
    }
    fixture
        .router
        .on_slots(None, &[row(2, Some(1))], fixture.now);
    assert_owner(&fixture.router, 2);
}

#[test]
fn what_the_user_has_named_is_asked_if_no_other_node_answers() {
    let mut fixture = Fixture::new(0);
    fixture.router.seeds = vec![address(1), address(7), address(8)];
    fixture.router.on_closed(0, fixture.now);
    let mut tried = Vec::new();
    for _ in 0..100 {
        fixture.now += TICK;
        fixture.router.on_time(fixture.now);
        while let Some((node, address)) = fixture.router.next_connect() {
            tried.push(address.port);
            match address.port {
                8 => fixture.router.on_connected(node, fixture.now),
                _ => fixture.router.on_closed(node, fixture.now),
            }
        }
    }
    assert!(
        [1, 7, 8].iter().all(|port| tried.contains(port)),
        "{tried:?}"
    );
    let seed = fixture.router.node(&address(8), fixture.now);
    fixture
        .router
        .on_reply(seed, b"$1\r\nx\r\n", fixture.now)
        .unwrap();
    fixture.now += REFRESH_INTERVAL;
    fixture.router.on_time(fixture.now);
    let mut out = Vec::new();
    fixture.router.take_out(seed, &mut out, fixture.now);
    assert!(out.ends_with(slots::SLOTS_COMMAND));
    let mut nodes = Vec::new();
    let line = b"id :9@19 myself,master - 0 0 1 connected 0-16383\n";
    resp::push_argument(&mut nodes, line);
    let rows = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$4\r\nnode\r\n:9\r\n$2\r\nid\r\n";
    fixture.router.on_reply(seed, &nodes, fixture.now).unwrap();
    fixture.router.on_reply(seed, rows, fixture.now).unwrap();
    assert_owner(&fixture.router, 9);
}

#[test]
fn nodes_that_no_map_names_are_forgotten() {
    let mut fixture = Fixture::new(0);
    for port in 2..200 {
        let mut row = row(1, Some(port.into()));
        row.replicas.push(address(port));
        fixture.router.on_slots(None, &[row], fixture.now);
        // One that a node has named, and that is connected.
        let stray = fixture.router.node(&address(1000 + port), fixture.now);
        fixture.router.nodes[stray].want(fixture.now);
        while let Some((node, _)) = fixture.router.next_connect() {
            fixture.router.on_connected(node, fixture.now);
            let loaded = b"$1\r\nx\r\n";
            fixture.router.on_reply(node, loaded, fixture.now).unwrap();
        }
        fixture.now += TIMEOUT;
        fixture.router.on_time(fixture.now);
    }
    assert!(fixture.router.nodes.len() < 15);
    assert_owner(&fixture.router, 1);
}

/// All nodes were set up anew, with earlier epochs, and came back at once.
#[test]
fn an_owner_that_names_another_is_believed() {
    let mut fixture = Fixture::new(0);
    let Fixture { router, now, .. } = &mut fixture;
    let now = *now;
    router.on_slots(None, &[row(1, Some(9))], now);
    let (one, two) = (router.node(&address(1), now), router.node(&address(2), now));
    router.on_slots(Some(two), &[row(2, Some(1))], now);
    assert_owner(router, 1);
    router.on_slots(Some(one), &[row(2, Some(1))], now);
    assert_owner(router, 2);
    router.on_slots(Some(two), &[row(2, Some(1))], now);
    assert!(!router.refresh);
}

/// Nothing is under way, so nobody has looked at the time.
#[test]
fn the_place_of_a_node_that_is_connected_is_not_free() {
    let mut fixture = Fixture::new(0);
    let stray = fixture.router.node(&address(7), fixture.now);
    fixture.router.nodes[stray].want(fixture.now);
    let (node, _) = fixture.router.next_connect().unwrap();
    fixture.router.on_connected(node, fixture.now);
    let loaded = b"$1\r\nx\r\n";
    fixture.router.on_reply(node, loaded, fixture.now).unwrap();
    assert_eq!(fixture.router.stats.nodes_up, 2);
    fixture.now += TIMEOUT + FORGET_TIME;
    fixture.router.node(&address(8), fixture.now);
    fixture.router.on_time(fixture.now);
    let router = &fixture.router;
    let up = router.nodes.iter().filter(|node| node.link == Link::Up);
    assert_eq!(router.stats.nodes_up, up.count() as u64);
}
