//! Mirrors: copies of keys that follow the server.

use std::{pin::pin, task::Poll, time::Duration};

use futures_lite::future;
use keywire::{Client, Error, Event, Mirror, Server};

use super::connect;
use crate::common::{
    DEADLINE, TestServer,
    events::{delete, put},
    proxy::Proxy,
    scripted::{answering, poll},
};

fn held(mirror: &Mirror) -> Vec<(String, Vec<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let entries = mirror.iter();
    let entries = entries.map(|(key, values)| {
        let values = values.iter().map(|value| text(value)).collect();
        (text(key), values)
    });
    entries.collect()
}

#[test]
fn it_holds_what_was_there_and_follows_each_change() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        client.put("a", "1").await.unwrap();
        client.put("ab", "2").await.unwrap();
        let mut one = client.mirror("a").await.unwrap();
        let mut all = client.mirror_prefix("a").await.unwrap();
        client.put("a", "3").await.unwrap();
        client.delete("ab").await.unwrap();
        client.put("b", "4").await.unwrap();
        assert_eq!(one.changed().await.unwrap(), put("a", 3));
        assert_eq!(all.changed().await.unwrap(), put("a", 3));
        assert_eq!(all.get("ab"), [b"2"]); // one change at a time
        assert_eq!(all.changed().await.unwrap(), delete("ab"));
        let expected = [("a".into(), vec!["1".into(), "3".into()])];
        assert_eq!(
            (held(&one), held(&all)),
            (expected.to_vec(), expected.to_vec())
        );
        assert!(one.get("b").is_empty() && all.get("ab").is_empty());
        client.delete("a").await.unwrap();
        one.changed().await.unwrap();
        assert!(one.is_empty() && !all.is_empty());
        // It shows no key and no value.
        assert!(!format!("{all:?}").contains('3'));
        let error = client.mirror("a:b").await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }));
    });
}

/// Dropped at any moment, it goes on where it was; also in the midst of reading anew.
#[test]
fn it_reads_anew_after_changes_that_were_missed_and_loses_none_when_dropped() {
    let (client, server) = answering();
    let mut mirror = future::block_on(client.mirror_prefix("k")).unwrap();
    server.send(":put:k:1\n:missed:3\n:put:k:9\n");
    assert_eq!(future::block_on(mirror.changed()).unwrap(), put("k", 1));
    server.allow_io(Some(0));
    let asked = server.commands().len();
    {
        let mut changed = pin!(mirror.changed());
        assert!(poll(changed.as_mut()).is_pending());
    }
    assert_eq!(held(&mirror), [("k".into(), vec!["1".into()])]);
    server.allow_io(None);
    assert_eq!(
        future::block_on(mirror.changed()).unwrap(),
        Event::Missed(3)
    );
    // What the server holds, which is nothing; what stood behind the gap is contained.
    assert!(mirror.is_empty());
    server.send(":put:k:2\n");
    assert_eq!(future::block_on(mirror.changed()).unwrap(), put("k", 2));
    let reads = server.commands().split_off(asked);
    let reads = reads.iter().filter(|line| *line == "GetPrefix:k");
    assert_eq!(reads.count(), 1);
    match poll(pin!(mirror.changed()).as_mut()) {
        Poll::Pending => {}
        Poll::Ready(changed) => panic!("{changed:?}"),
    }
}

/// After an error it never goes on from behind a gap as if nothing had been missed.
#[test]
fn a_reading_that_fails_is_begun_anew() {
    let server = TestServer::start(Server::builder().max_watches(1).build());
    let proxy = Proxy::start(server.address);
    future::block_on(async {
        let client = Client::builder()
            .address(proxy.address)
            .answer_timeout(Some(DEADLINE))
            .connect()
            .await
            .unwrap();
        let other = connect(&server).await;
        let mut mirror = client.mirror_prefix("k").await.unwrap();
        let taken = client.watch("l").await;
        assert!(matches!(taken, Err(Error::Refused { .. })));
        other.put("k", "1").await.unwrap();
        assert_eq!(mirror.changed().await.unwrap(), put("k", 1));
        proxy.cut();
        other.put("k", "2").await.unwrap();
        // It may take several attempts, of which none hides the gap.
        let mut changes = Vec::new();
        while mirror.get("k").len() < 2 {
            match mirror.changed().await {
                Ok(event) => changes.push(event),
                Err(Error::Refused { .. }) => {
                    smol::Timer::after(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(changes, [Event::Missed(0)]);
        // It ends with its client, and does not hang.
        client.close();
        assert!(mirror.changed().await.unwrap_err().is_disconnected());
        assert!(mirror.changed().await.unwrap_err().is_disconnected());
        assert_eq!(mirror.get("k").len(), 2);
    });
}
