//! A master is killed in the middle of writes.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;
use keywire::{Error, protocol::Code};

use crate::{
    common::wait_until,
    linear::Op,
    load::{Fate, Load, check, check_order, lists},
    nodes::{Setup, exclusive},
    servers::{client, keys_by_master, server_with},
};

/// With a replica asked of every write, a replica that takes over has all that was acknowledged.
#[test]
fn nothing_acknowledged_by_a_replica_is_lost_in_a_failover() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers = [(); 2].map(|()| server_with(&nodes, "failover:", |store| store.replicas(1)));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 100);

    let heir = nodes.replica_of(0);
    nodes.kill(0);
    wait_until("the replica takes over", || nodes.is_master(heir));
    // Others have gone on meanwhile, and go on.
    load.await_applied(&[1, 2], 20);
    // The new master has no replica before this one is back.
    nodes.restart(0);
    load.await_applied(&[0, 1, 2], 50);
    nodes.wait_ok();

    // The new master goes as well.
    nodes.kill(heir);
    wait_until("the old master takes over", || nodes.is_master(0));
    nodes.restart(heir);
    load.await_applied(&[0, 1, 2], 50);

    let records = load.finish();
    for server in &servers {
        let tally = check(&records, &lists(server, &groups));
        eprintln!("with a replica: {tally}");
        assert_eq!(tally.lost, 0, "{tally}");
        assert!(tally.applied > 1000, "{tally}");
    }
}

/// Without, what the master acknowledged and had not passed on is lost. All else holds.
#[test]
fn a_failover_without_replicas_doubles_nothing() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers = [(); 2].map(|()| server_with(&nodes, "failover:", |store| store));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 100);

    let heir = nodes.replica_of(1);
    nodes.kill(1);
    wait_until("the replica takes over", || nodes.is_master(heir));
    load.await_applied(&[0, 1, 2], 100);

    let records = load.finish();
    for server in &servers {
        let tally = check(&records, &lists(server, &groups));
        eprintln!("without a replica: {tally}");
        // What was on its way to the replica when the master was killed: of two clients, one call each
        // in hundreds.
        assert!(tally.lost <= 20, "{tally}");
        assert!(tally.applied > 1000, "{tally}");
    }
}

/// Nodes that have every write on the disk before they answer, and that come back themselves, lose
/// nothing without replicas either; one history holds all through it.
#[test]
fn a_durable_master_that_comes_back_has_lost_nothing() {
    let nodes = exclusive(Setup::durable());
    let groups = keys_by_master(&nodes, 4);
    let servers = [(); 2].map(|()| server_with(&nodes, "durable:", |store| store));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    for _ in 0..3 {
        nodes.kill(2);
        // Until the others miss it, they serve.
        load.await_applied(&[0, 1], 5);
        nodes.restart(2);
        load.await_applied(&[0, 1, 2], 30);
    }
    let records = load.finish();
    check_order(&records);
    for server in &servers {
        let tally = check(&records, &lists(server, &groups));
        eprintln!("durable: {tally}");
        assert_eq!(tally.lost, 0, "{tally}");
        // The calls under way when it was killed, and no others.
        assert!(tally.unconfirmed <= 3 * 2, "{tally}");
    }
}

/// A replica that is promoted by hand: the old master redirects, and nothing fails.
#[test]
fn a_failover_by_hand_fails_no_call() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers = [(); 2].map(|()| server_with(&nodes, "byhand:", |store| store));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let heir = nodes.replica_of(0);
    for promoted in [heir, 0] {
        nodes.ask(promoted, ["CLUSTER", "FAILOVER"]);
        wait_until("it takes over", || nodes.is_master(promoted));
        load.await_applied(&[0, 1, 2], 50);
        nodes.wait_ok();
    }
    let records = load.finish();
    let slowest = records.iter().map(|record| record.took()).max().unwrap();
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    check_order(&records);
    let tally = check(&records, &lists(&servers[1], &groups));
    eprintln!("by hand: {tally}");
    assert_eq!(
        (tally.lost, tally.refused, tally.unconfirmed),
        (0, 0, 0),
        "{tally}"
    );
}

/// A replica that hangs has nothing, so nothing is promised; its master goes on, and so do others.
#[test]
fn writes_that_no_replica_has_are_unconfirmed() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 4);
    let timeout = Duration::from_secs(1);
    let servers = [(); 2].map(|()| {
        server_with(&nodes, "noreplica:", |store| {
            store.replicas(1).timeout(timeout)
        })
    });
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let replica = nodes.replica_of(0);
    nodes.stop(replica);
    // What was sent before may have reached it.
    let stopped = Instant::now();
    load.await_failed(0);
    load.await_applied(&[1, 2], 50);
    load.await_failed(0);
    let resumed = Instant::now();
    nodes.resume(replica);
    load.await_applied(&[0, 1, 2], 50);
    let records = load.finish();
    for record in &records {
        let meanwhile = record.begin > stopped && record.end < resumed;
        let is_put = matches!(record.op, Op::Put(_));
        match &record.fate {
            Fate::Applied => assert!(!(meanwhile && is_put && record.group == 0), "{record:?}"),
            Fate::Unconfirmed(_) => assert!(is_put && record.group == 0, "{record:?}"),
            Fate::Refused(_) => panic!("{record:?}"),
        }
    }
    // The master has them all.
    check_order(&records);
    let tally = check(&records, &lists(&servers[0], &groups));
    eprintln!("no replica: {tally}");
    assert!(
        tally.unconfirmed > 0 && tally.unconfirmed == tally.there,
        "{tally}"
    );
}

/// A node answers nothing on a connection on which it waits for a replica.
#[test]
fn reads_do_not_wait_for_a_replica_that_hangs() {
    const READS: usize = 300;
    let nodes = exclusive(Setup::default());
    let keys = &keys_by_master(&nodes, 4)[0];
    let server = server_with(&nodes, "reads:", |store| store.replicas(1));
    let [writer, reader] = [(); 2].map(|()| client(&server));
    let replica = nodes.replica_of(0);
    let (stop, late) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for key in keys {
                    match future::block_on(writer.put(key, "v")) {
                        Ok(()) => {}
                        Err(Error::Unconfirmed { .. }) => {
                            late.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        });
        nodes.stop(replica);
        wait_until("a write has waited in vain", || {
            late.load(Ordering::Relaxed) > 0
        });
        let mut times = Vec::new();
        while times.len() < READS || late.load(Ordering::Relaxed) < 3 {
            let began = Instant::now();
            let key = &keys[times.len() % keys.len()];
            future::block_on(reader.get(key)).unwrap();
            times.push(began.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        nodes.resume(replica);
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        eprintln!(
            "p99 of {} reads while a replica hangs: {p99:?}",
            times.len()
        );
        assert!(p99 < Duration::from_millis(200), "{p99:?}");
    });
}

/// A master that is set up not to write without its replica refuses, and what it refuses is not there.
#[test]
fn a_master_without_its_replica_refuses_if_it_is_told_to() {
    let setup = Setup::default().with("min-replicas-to-write", "1");
    let nodes = exclusive(setup);
    let groups = keys_by_master(&nodes, 4);
    let servers = [(); 2].map(|()| server_with(&nodes, "minimum:", |store| store.replicas(1)));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let replica = nodes.replica_of(0);
    nodes.kill(replica);
    load.await_failed(0);
    load.await_applied(&[1, 2], 20);
    let client = client(&servers[0]);
    let refused = future::block_on(client.set(&groups[0][0], "x"));
    assert!(
        matches!(
            refused,
            Err(Error::Refused {
                code: Code::Store,
                ..
            })
        ),
        "{refused:?}"
    );
    nodes.restart(replica);
    load.await_applied(&[0, 1, 2], 50);
    let records = load.finish();
    check_order(&records);
    let tally = check(&records, &lists(&servers[1], &groups));
    eprintln!("no replica, which is wanted: {tally}");
    assert_eq!(tally.lost, 0, "{tally}");
    assert!(tally.refused > 0, "{tally}");
}
