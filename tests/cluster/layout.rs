//! What is on the cluster, as other programs see it.

use futures_lite::{StreamExt as _, future};
use keywire::{Error, protocol::Code, store::Cluster};

use crate::{
    nodes::{Nodes, shared},
    resp::Value,
    servers::{bucket, client, crc16, list_name, server, slot, within},
};

/// The list of a key, as a node has it.
fn list(nodes: &Nodes, prefix: &str, key: &[u8]) -> Vec<Vec<u8>> {
    let name = list_name(prefix, key);
    let range = [&b"LRANGE"[..], &name, b"0", b"-1"];
    let values = nodes.ask(nodes.owner(slot(key)), range);
    values
        .array()
        .iter()
        .map(|value| value.bytes().to_vec())
        .collect()
}

#[test]
fn the_checksum_is_redis_own() {
    assert_eq!(crc16(b"123456789"), 0x31c3);
    let nodes = shared();
    for key in ["a", "foo", "k17"] {
        let slot = nodes.ask(0, ["CLUSTER", "KEYSLOT", key]).integer();
        assert_eq!(i64::from(crc16(key.as_bytes()) % 16384), slot);
    }
}

#[test]
fn redis_cli_shows_the_lists() {
    let _bound = within(30);
    let nodes = shared();
    let server = server(nodes, "cli:");
    let mut connection = server.connect();
    connection.send("Put:user:alice\nPut:user:bob\nUpdate:user:alice:charlie\n");
    connection.sync();
    let name = format!("cli:{{{}}}:user", bucket(b"user"));
    let mut command = nodes.cli(0);
    let output = command
        .args(["-c", "lrange", &name, "0", "-1"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "charlie\nbob\n");
    // A list without values is no key.
    connection.send("Remove:user:charlie\nRemove:user:bob\n");
    connection.sync();
    let exists = nodes.ask(nodes.owner(slot(b"user")), ["EXISTS", &name]);
    assert_eq!(exists, Value::Integer(0));
}

/// The prefix is `keywire:` unless another one is asked for.
#[test]
fn the_prefix_has_a_default() {
    let _bound = within(30);
    let nodes = shared();
    let store = smol::block_on(Cluster::builder().connect(nodes.addresses())).unwrap();
    let server = crate::common::TestServer::start(keywire::Server::builder().store(store).build());
    future::block_on(client(&server).put("default", "v")).unwrap();
    assert_eq!(list(nodes, "keywire:", b"default"), [b"v"]);
}

#[test]
fn keys_and_values_are_any_bytes() {
    let _bound = within(60);
    let nodes = shared();
    let (one, other) = (server(nodes, "bytes:"), server(nodes, "bytes:"));
    let (one, other) = (client(&one), client(&other));
    let all: Vec<u8> = (0..=255).filter(|byte| !b":\n".contains(byte)).collect();
    let long = vec![b'k'; 30_000];
    let keys: [&[u8]; 12] = [
        b"{", b"}", b"{}", b"{a}", b"x{a}y", b"}{", b"{{a}}", b"#seq", b"#ch", b" ", &all, &long,
    ];
    let values: [Vec<u8>; 5] = [
        Vec::new(),
        b"a:b::".to_vec(),
        (0..=255).filter(|&byte| byte != b'\n').collect(),
        vec![0xff; 30_000],
        b"\r\n$5\r\n"
            .iter()
            .copied()
            .filter(|&byte| byte != b'\n')
            .chain(*b"x")
            .collect(),
    ];
    future::block_on(async {
        for key in keys {
            for value in &values {
                one.put(key, value).await.unwrap();
            }
            assert_eq!(other.get(key).await.unwrap(), values);
            assert_eq!(list(nodes, "bytes:", key), values);
            other.update(key, &values[3], "new").await.unwrap();
            one.remove(key, &values[2]).await.unwrap();
            let rest = [&values[0][..], &values[1], b"new", &values[4]];
            assert_eq!(one.get(key).await.unwrap(), rest);
        }
        let found = one.get_prefix("").try_collect::<_, _, Vec<_>>();
        let found: Vec<_> = found.await.unwrap();
        assert_eq!(found.len(), keys.len());
        for key in keys {
            one.set(key, "one").await.unwrap();
            assert_eq!(other.get(key).await.unwrap(), [b"one"]);
            one.delete(key).await.unwrap();
            assert!(other.get(key).await.unwrap().is_empty());
        }
    });
}

/// Also if one prefix begins like the other, or has what means something in a pattern.
#[test]
fn two_prefixes_share_a_cluster() {
    let _bound = within(60);
    let nodes = shared();
    let prefixes = ["s", "s:", "s:t:", "s*", "s?[a]"];
    let servers = prefixes.map(|prefix| server(nodes, prefix));
    let clients = servers.each_ref().map(client);
    future::block_on(async {
        for (client, prefix) in clients.iter().zip(prefixes) {
            for number in 0..50 {
                client.put(format!("k{number}"), prefix).await.unwrap();
            }
        }
        for (client, prefix) in clients.iter().zip(prefixes) {
            let walk = client.get_prefix("").try_collect::<_, _, Vec<_>>();
            let found: Vec<_> = walk.await.unwrap();
            assert_eq!(found.len(), 50, "{prefix}");
            assert!(
                found
                    .iter()
                    .all(|(_, values)| values == &[prefix.as_bytes()])
            );
            client.delete("k0").await.unwrap();
        }
        for client in &clients {
            assert!(client.get("k0").await.unwrap().is_empty());
            assert_eq!(client.get("k1").await.unwrap().len(), 1);
        }
    });
}

/// A prefix with a hash tag of its own would put all keys in one slot.
#[test]
fn a_prefix_with_a_hash_tag_is_refused() {
    let _bound = within(30);
    for prefix in ["{", "a{b}:", "x{y"] {
        let builder = Cluster::builder().prefix(prefix);
        let error = smol::block_on(builder.connect(shared().addresses())).unwrap_err();
        assert!(error.to_string().contains("prefix"), "{error}");
    }
}

/// Another program's key of another type, under the name of a list: an error of that key, and of no other.
#[test]
fn a_key_of_another_type_is_an_error_of_its_own() {
    let _bound = within(30);
    let nodes = shared();
    let server = server(nodes, "type:");
    let client = client(&server);
    let name = list_name("type:", b"text");
    nodes.ask(nodes.owner(slot(b"text")), [&b"SET"[..], &name, b"v"]);
    future::block_on(async {
        let outcomes = client
            .pipeline()
            .put("text", "v")
            .put("list", "v")
            .get("text")
            .get("list")
            .send()
            .await
            .unwrap();
        for refused in [&outcomes[0], &outcomes[2]] {
            let is_store = |error: &Error| {
                matches!(
                    error,
                    Error::Refused {
                        code: Code::Store,
                        ..
                    }
                )
            };
            assert!(refused.as_ref().is_err_and(is_store), "{refused:?}");
        }
        assert!(outcomes[1].is_ok(), "{outcomes:?}");
        assert_eq!(outcomes[3].as_ref().unwrap().values().unwrap(), [b"v"]);
        // A Set makes it a list, or is refused as well; a Delete takes it away.
        client.delete("text").await.unwrap();
        client.put("text", "v").await.unwrap();
        assert_eq!(client.get("text").await.unwrap(), [b"v"]);
    });
}

/// The number of a bucket is spoilt: what is called refused is not there.
#[test]
fn a_write_that_can_not_be_numbered_is_refused_whole() {
    let _bound = within(30);
    let nodes = shared();
    let server = server(nodes, "number:");
    let client = client(&server);
    let number = format!("number:{{{}}}#seq", bucket(b"k"));
    nodes.ask(nodes.owner(slot(b"k")), ["SET", &number, "text"]);
    future::block_on(async {
        let fate = client.put("k", "v").await;
        let values = client.get("k").await.unwrap();
        let Err(Error::Refused { code, message, .. }) = fate else {
            panic!("{fate:?}");
        };
        // The operator sees what is wrong.
        assert_eq!(code, Code::Store);
        assert!(message.contains(&number), "{message}");
        assert!(values.is_empty());
    });
}
