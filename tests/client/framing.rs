//! Which reply belongs to which call, and what is known of a call when its connection ends.

use std::task::Poll;

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, protocol::Code};

use super::with_fences;
use crate::common::{
    is_unsent,
    scripted::{self, answering, poll, silent},
};

#[test]
fn what_no_line_can_carry_is_never_sent() {
    let (client, server) = answering();
    let bad_keys: [&[u8]; 7] = [b"", b":", b"a:b", b"\n", b"a\nPut:b", b"a\r", b"\r"];
    let bad_values: [&[u8]; 4] = [b"\n", b"a\nDelete:a", b"a\r", b"\r"];
    let refused = |what: &str, result: Result<(), Error>| match result {
        Err(Error::InvalidArgument { command: 0, .. }) => {}
        other => panic!("{what}: {other:?}"),
    };
    future::block_on(async {
        for key in bad_keys {
            refused("put", client.put(key, "v").await);
            refused("get", client.get(key).await.map(drop));
            refused("delete", client.delete(key).await);
            refused("update", client.update(key, "a", "b").await);
            refused("set", client.set(key, "a").await);
            refused("remove", client.remove(key, "a").await);
            refused("watch", client.watch(key).await.map(drop));
            refused("both", client.get_and_watch(key).await.map(drop));
            if !key.is_empty() {
                refused("prefix", client.watch_prefix(key).await.map(drop));
                let both = client.get_and_watch_prefix(key).await;
                refused("prefix and both", both.map(drop));
                let (mut walk, mut keys) = (client.get_prefix(key), client.keys(key));
                refused("walk", walk.next().await.unwrap().map(drop));
                refused("keys", keys.next().await.unwrap().map(drop));
                assert!(walk.next().await.is_none() && keys.next().await.is_none());
            }
        }
        for value in bad_values {
            refused("put", client.put("k", value).await);
            refused("update", client.update("k", "old", value).await);
            refused("set", client.set("k", value).await);
            refused("remove", client.remove("k", value).await);
        }
        refused("old", client.update("k", "a:b", "new").await);
        refused("old", client.update("k", "a\nb", "new").await);

        // A pipeline says which it was, the first of several, and sends none.
        let pipeline = client
            .pipeline()
            .put("a", "1")
            .get("b")
            .put("", "2")
            .get("\n");
        match pipeline.send().await {
            Err(Error::InvalidArgument {
                command: 2, reason, ..
            }) => {
                assert_eq!(reason, "the key is empty")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.lines(), 0);
        client.sync().await.unwrap();
        assert_eq!(server.lines(), 1);
    });
}

#[test]
fn dropped_replies_are_an_error_and_an_absent_key_is_not() {
    future::block_on(async {
        let (client, _server) = with_fences(":sync:3:TOKEN\n");
        match client.get("k").await {
            Err(Error::RepliesDropped { lines: 3, .. }) => {}
            other => panic!("{other:?}"),
        }
        let (client, _server) = with_fences(":sync:0:TOKEN\n");
        assert!(client.get("k").await.unwrap().is_empty());
        // A write has no reply that could be lost.
        let (client, _server) = with_fences(":sync:3:TOKEN\n");
        client.put("k", "v").await.unwrap();
    });
}

#[test]
fn a_loss_belongs_to_the_read_before_its_fence() {
    let mut gets = 0;
    let (stream, _server) = scripted::pair(move |line, out| {
        if line.starts_with("Get") {
            gets += 1;
            if gets != 2 {
                *out += "k:v\n";
            }
        } else if let Some(token) = line.strip_prefix("Sync:") {
            let lost = if gets == 2 { 1 } else { 0 };
            *out += &format!(":sync:{lost}:{token}\n");
        }
    });
    let client = Client::from_stream(stream);
    let pipeline = client.pipeline().get("k").put("k", "1").get("k").get("k");
    let outcomes = future::block_on(pipeline.send()).unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap().values().unwrap(), [b"v"]);
    assert!(outcomes[1].is_ok());
    assert!(matches!(
        outcomes[2],
        Err(Error::RepliesDropped { lines: 1, .. })
    ));
    assert_eq!(outcomes[3].as_ref().unwrap().values().unwrap(), [b"v"]);
}

#[test]
fn a_refused_fence_confirms_nothing_and_the_next_one_does() {
    let (client, server) = silent();
    let mut pipeline = Box::pin(
        client
            .pipeline()
            .put("a", "1")
            .put("b", "2")
            .get("k")
            .send(),
    );
    assert!(poll(pipeline.as_mut()).is_pending());
    server.send(":error:2:store:no\n:error:4:closing:the server is shutting down\n");
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    // What was refused by its number is not applied; of the others nobody knows.
    assert!(matches!(
        &outcomes[..],
        [
            Err(Error::Unconfirmed {
                code: Code::Closing,
                ..
            }),
            Err(Error::Refused {
                code: Code::Store,
                ..
            }),
            Err(Error::Unconfirmed {
                code: Code::Closing,
                ..
            }),
        ]
    ));
    server.send(":sync:0:6\n");
    future::block_on(client.put("k", "v")).unwrap();
}

/// The store does not know whether it applied it. The connection goes on.
#[test]
fn a_write_that_nobody_can_confirm_may_be_applied() {
    let (client, server) = silent();
    let mut pipeline = Box::pin(client.pipeline().set("a", "1").remove("b", "2").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    server.send(":error:1:unconfirmed:a node is gone\n:sync:0:3\n");
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    assert!(outcomes[1].is_ok());
    let error = outcomes[0].as_ref().unwrap_err();
    assert!(matches!(error, Error::Unconfirmed { code, .. } if *code == Code::Unconfirmed));
    assert!(error.may_be_applied() && !error.is_disconnected());
    assert_eq!(
        error.to_string(),
        "the server did not confirm it (unconfirmed): a node is gone; it may or may not be applied"
    );
    // It is not why a connection ends that ends behind it.
    let mut last = Box::pin(client.put("a", "1"));
    assert!(poll(last.as_mut()).is_pending());
    server.send(":error:4:unconfirmed:a node is gone\n");
    server.close();
    match poll(last.as_mut()) {
        Poll::Ready(Err(Error::Unconfirmed { code, .. })) => assert_eq!(code, Code::Unconfirmed),
        other => panic!("{other:?}"),
    }
    let error = future::block_on(client.sync()).unwrap_err();
    assert!(is_unsent(&error), "{error}");
}

#[test]
fn a_pipeline_that_breaks_half_way_keeps_the_outcomes_it_has() {
    let (client, server) = silent();
    let mut pipeline = Box::pin(client.pipeline().get("a").get("b").get("c").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    server.send("a:1\n:sync:0:2\nb:2\n");
    server.close();
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    assert_eq!(outcomes[0].as_ref().unwrap().values().unwrap(), [b"1"]);
    for outcome in &outcomes[1..] {
        assert!(matches!(outcome, Err(Error::Disconnected(None))));
    }
    // Nothing can be sent any more, so there are no outcomes at all.
    let error = future::block_on(client.pipeline().get("a").send()).unwrap_err();
    assert!(is_unsent(&error), "{error}");
}

/// A server that refuses the connection says why, then hangs up; writing fails before that is
/// read.
#[test]
fn the_last_words_are_read_though_writing_fails() {
    let (client, server) = silent();
    server.send(":error:0:full:too many clients\n");
    server.close();
    server.fail_writes();
    let mut call = Box::pin(client.get("k"));
    let Poll::Ready(Err(error)) = poll(call.as_mut()) else {
        panic!("no error");
    };
    assert!(
        matches!(
            error,
            Error::Refused {
                code: Code::Full,
                ..
            }
        ),
        "{error}"
    );
    // Where there are none, the error of the write is told, source and all.
    let (client, server) = silent();
    server.fail_writes();
    let error = future::block_on(client.get("k")).unwrap_err();
    let Error::Disconnected(Some(source)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(error.to_string().contains("pipe"), "{error}");
}

/// A server that ends a connection says why in its last line.
#[test]
fn the_last_refusal_is_why_a_connection_ended() {
    let (client, server) = silent();
    let mut calls = Box::pin(
        client
            .pipeline()
            .put("a", "1")
            .put("b", "2")
            .put("c", "3")
            .send(),
    );
    assert!(poll(calls.as_mut()).is_pending());
    server.send(":error:2:unauthorized:that is not the secret\n");
    server.close();
    let Poll::Ready(Ok(outcomes)) = poll(calls.as_mut()) else {
        panic!("no outcomes");
    };
    let unauthorized = |error: &Error, sent: bool| match error {
        Error::Refused { code, message, .. } | Error::Unconfirmed { code, message, .. } => {
            assert_eq!(*code, Code::Unauthorized);
            assert_eq!(message, "that is not the secret");
            assert_eq!(matches!(error, Error::Unconfirmed { .. }), sent, "{error}");
        }
        _ => panic!("{error}"),
    };
    for (outcome, sent) in outcomes.iter().zip([true, false, true]) {
        unauthorized(outcome.as_ref().unwrap_err(), sent);
    }
    unauthorized(&future::block_on(client.get("k")).unwrap_err(), false);

    // A refusal after which the server went on is not why.
    for went_on in ["k:v\n", ":sync:0:2\n"] {
        let (client, server) = silent();
        let mut call = Box::pin(client.pipeline().get("k").get("k").send());
        assert!(poll(call.as_mut()).is_pending());
        server.send(":error:1:unauthorized:first say Auth:secret\n:sync:0:2\n");
        if went_on != ":sync:0:2\n" {
            server.send(went_on);
        }
        server.close();
        assert!(poll(call.as_mut()).is_ready());
        let error = future::block_on(client.get("k")).unwrap_err();
        assert!(is_unsent(&error), "{error}");
    }
}

/// What the server had taken before it refused the rest may be applied; what asks and changes
/// nothing is just refused.
#[test]
fn a_server_that_closes_says_so_to_all_who_wait() {
    let (client, server) = silent();
    let mut pipeline = Box::pin(client.pipeline().put("a", "1").get("k").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    server.send(":error:0:closing:the server is shutting down\n");
    server.close();
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    let closing = Code::Closing;
    assert!(matches!(&outcomes[0], Err(Error::Unconfirmed { code, .. }) if *code == closing));
    assert!(matches!(&outcomes[1], Err(Error::Refused { code, .. }) if *code == closing));
}
