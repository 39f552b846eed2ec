//! keywire servers on a cluster, in this process, and names of keys on its nodes.

use std::{sync::mpsc, thread, time::Duration};

use futures_lite::future;
use keywire::{
    Client, Server,
    store::{Cluster, ClusterBuilder},
};

use crate::{common::TestServer, nodes::Nodes};

pub(crate) type ClusterServer = TestServer<Cluster>;

/// How long a command waits for its node, in these tests.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A store on all of the nodes.
pub(crate) fn store(
    nodes: &Nodes,
    prefix: &str,
    set_up: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
) -> Cluster {
    let builder = Cluster::builder().prefix(prefix).timeout(STORE_TIMEOUT);
    smol::block_on(set_up(builder).connect(nodes.addresses())).unwrap()
}

pub(crate) fn server(nodes: &Nodes, prefix: &str) -> ClusterServer {
    server_with(nodes, prefix, |builder| builder)
}

pub(crate) fn server_with(
    nodes: &Nodes,
    prefix: &str,
    set_up: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
) -> ClusterServer {
    TestServer::start(
        Server::builder()
            .store(store(nodes, prefix, set_up))
            .build(),
    )
}

/// Two servers that share their names.
pub(crate) fn two_servers(nodes: &Nodes, prefix: &str) -> [ClusterServer; 2] {
    [server(nodes, prefix), server(nodes, prefix)]
}

pub(crate) fn client(server: &ClusterServer) -> Client {
    future::block_on(server.handle.client()).unwrap()
}

/// Redis's checksum of a key: CRC-16/XMODEM.
pub(crate) fn crc16(key: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for &byte in key {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc
}

pub(crate) fn bucket(key: &[u8]) -> u16 {
    crc16(key) % 1024
}

/// The slot of a key of a client.
pub(crate) fn slot(key: &[u8]) -> u16 {
    crc16(bucket(key).to_string().as_bytes()) % 16384
}

/// The name of a key's list on the cluster.
pub(crate) fn list_name(prefix: &str, key: &[u8]) -> Vec<u8> {
    let mut name = format!("{prefix}{{{}}}:", bucket(key)).into_bytes();
    name.extend_from_slice(key);
    name
}

/// So many keys on each master, as the slots are now.
pub(crate) fn keys_by_master(nodes: &Nodes, keys: usize) -> Vec<Vec<String>> {
    let mut by_master = vec![Vec::new(); nodes.masters()];
    // Masters have a contiguous third of the slots each, as the cluster begins.
    for number in 0.. {
        let key = format!("k{number}");
        let master = usize::from(slot(key.as_bytes())) * nodes.masters() / 16384;
        if by_master[master].len() < keys {
            by_master[master].push(key);
        }
        if by_master.iter().all(|found| found.len() == keys) {
            break;
        }
    }
    for (master, keys) in by_master.iter().enumerate() {
        assert_eq!(nodes.owner(slot(keys[0].as_bytes())), master);
    }
    by_master
}

/// Ends the process if the test takes longer than this. The nodes end with it.
pub(crate) struct Bound(#[allow(dead_code)] mpsc::Sender<()>);

pub(crate) fn within(seconds: u64) -> Bound {
    let (alive, ended) = mpsc::channel();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    thread::spawn(move || {
        let ended = ended.recv_timeout(Duration::from_secs(seconds));
        if ended == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{test} takes longer than {seconds} s");
            std::process::exit(101);
        }
    });
    Bound(alive)
}
