//! What the client sends, what it makes of what comes back, and what it makes of nonsense.

mod common;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use common::far::{self, Far, mute, plain, poll};
use futures_lite::{FutureExt as _, StreamExt as _, future};
use keywire::{Client, Error, protocol::Code};
use proptest::prelude::*;

/// A client whose server answers the first `Sync`, whatever came before it, with these lines.
/// TOKEN stands for its token.
fn scripted(lines: &'static str) -> (Client, Far) {
    let mut spent = false;
    let (near, far) = far::pair(move |line, out| {
        if let Some(token) = line.strip_prefix("Sync:").filter(|_| !spent) {
            spent = true;
            *out += &lines.replace("TOKEN", token);
        }
    });
    (Client::from_stream(near), far)
}

#[test]
fn what_no_line_can_carry_is_never_sent() {
    let (client, far) = plain();
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
            refused("watch", client.watch(key).await.map(drop));
            refused("both", client.get_and_watch(key).await.map(drop));
            if !key.is_empty() {
                refused("prefix", client.watch_prefix(key).await.map(drop));
            }
        }
        for value in bad_values {
            refused("put", client.put("k", value).await);
            refused("update", client.update("k", "old", value).await);
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
            Err(Error::InvalidArgument { command: 2, reason }) => {
                assert_eq!(reason, "the key is empty")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(far.lines(), 0);
        client.sync().await.unwrap();
        assert_eq!(far.lines(), 1);
    });
}

#[test]
fn dropped_replies_are_an_error_and_an_absent_key_is_not() {
    future::block_on(async {
        let (client, _far) = scripted(":sync:3:TOKEN\n");
        match client.get("k").await {
            Err(Error::RepliesDropped { lines: 3 }) => {}
            other => panic!("{other:?}"),
        }
        let (client, _far) = scripted(":sync:0:TOKEN\n");
        assert!(client.get("k").await.unwrap().is_empty());
        // A write has no reply that could be lost.
        let (client, _far) = scripted(":sync:3:TOKEN\n");
        client.put("k", "v").await.unwrap();
    });
}

#[test]
fn a_loss_belongs_to_the_read_before_its_fence() {
    let mut gets = 0;
    let (near, _far) = far::pair(move |line, out| {
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
    let client = Client::from_stream(near);
    let pipeline = client.pipeline().get("k").put("k", "1").get("k").get("k");
    let outcomes = future::block_on(pipeline.send()).unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap(), &[b"v"]);
    assert!(outcomes[1].is_ok());
    assert!(matches!(
        outcomes[2],
        Err(Error::RepliesDropped { lines: 1 })
    ));
    assert_eq!(outcomes[3].as_ref().unwrap(), &[b"v"]);
}

/// What the server says, and what the client makes of it.
const NONSENSE: &[(&str, &str)] = &[
    ("what\n", "broke the protocol: a line that is no reply"),
    (
        "\n:sync:0:TOKEN\n",
        "broke the protocol: a line that is no reply",
    ),
    (
        ":error:x:nonsense:no\n",
        "broke the protocol: a line that is no reply",
    ),
    (
        ":sync:0:0\n",
        "broke the protocol: a Sync's reply out of turn",
    ),
    (
        ":sync:0:TOKEN0\n",
        "broke the protocol: a Sync's reply out of turn",
    ),
    (
        ":sync:0:\n",
        "broke the protocol: a Sync's reply out of turn",
    ),
    (
        ":sync:-1:TOKEN\n",
        "broke the protocol: a line that is no reply",
    ),
    (
        "other:v\n:sync:0:TOKEN\n",
        "broke the protocol: a value of another key",
    ),
    (
        "kk:v\n:sync:0:TOKEN\n",
        "broke the protocol: a value of another key",
    ),
    (
        ":stats:active=1\n",
        "broke the protocol: counters out of turn",
    ),
    (":watch:k\n", "broke the protocol: a watch out of turn"),
    (
        ":error:3:store:no\n",
        "broke the protocol: an error out of turn",
    ),
    (
        ":error:1:store:no\n:error:1:store:no\n",
        "broke the protocol: an error out of turn",
    ),
    (":error:0:full:too many\n", "refused (full): too many"),
    ("k:v", ""),
    ("", ""),
];

#[test]
fn nonsense_breaks_the_connection_cleanly() {
    for (said, expected) in NONSENSE {
        let (client, far) = scripted(said);
        if expected.is_empty() {
            far.hang_up();
        }
        let expected = match *expected {
            "" => "the connection is over",
            words => words,
        };
        let hasty = client.with_timeout(common::DEADLINE);
        let (one, other) = future::block_on(future::zip(hasty.get("k"), client.get("k")));
        for error in [one.unwrap_err(), other.unwrap_err()] {
            assert!(error.to_string().ends_with(expected), "{said:?}: {error}");
        }
        // It stays broken, and lets go of the stream at once.
        let error = future::block_on(client.put("k", "v")).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{said:?}: {error}");
        assert!(far.is_alone(), "{said:?}");
        let error = future::block_on(client.reconnect()).unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error}");
    }
}

#[test]
fn nonsense_for_other_commands() {
    let broken = |said, expected: &str, call: fn(&Client) -> future::Boxed<Error>| {
        let (client, _far) = scripted(said);
        let error = future::block_on(call(&client));
        assert!(error.to_string().ends_with(expected), "{said:?}: {error}");
    };
    let put: fn(&Client) -> future::Boxed<Error> = |client| {
        let client = client.clone();
        async move { client.put("k", "v").await.unwrap_err() }.boxed()
    };
    let stats: fn(&Client) -> future::Boxed<Error> = |client| {
        let client = client.clone();
        async move { client.stats().await.unwrap_err() }.boxed()
    };
    let watch: fn(&Client) -> future::Boxed<Error> = |client| {
        let client = client.clone();
        async move { client.watch("k").await.unwrap_err() }.boxed()
    };
    broken("k:v\n:sync:0:TOKEN\n", "a value out of turn", put);
    broken(":sync:0:TOKEN\n", "no counters", stats);
    broken(
        ":stats:what\n:sync:0:TOKEN\n",
        "counters that are none",
        stats,
    );
    broken(":stats:a=1\n:stats:a=1\n", "counters out of turn", stats);
    broken(":sync:0:TOKEN\n", "no answer to a watch", watch);
    broken(":watch:other\n", "a watch out of turn", watch);
    broken(":watchprefix:k\n", "a watch out of turn", watch);
    broken(":watch:k\n:watch:k\n", "a watch out of turn", watch);
}

#[test]
fn a_refused_fence_confirms_nothing_and_the_next_one_does() {
    let (client, far) = mute();
    let mut pipeline = Box::pin(
        client
            .pipeline()
            .put("a", "1")
            .put("b", "2")
            .get("k")
            .send(),
    );
    assert!(poll(pipeline.as_mut()).is_pending());
    far.say(":error:2:store:no\n:error:4:closing:the server is shutting down\n");
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
    far.say(":sync:0:6\n");
    future::block_on(client.put("k", "v")).unwrap();
}

#[test]
fn a_pipeline_that_breaks_half_way_keeps_the_outcomes_it_has() {
    let (client, far) = mute();
    let mut pipeline = Box::pin(client.pipeline().get("a").get("b").get("c").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    far.say("a:1\n:sync:0:2\nb:2\n");
    far.hang_up();
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    assert_eq!(outcomes[0].as_ref().unwrap(), &[b"1"]);
    for outcome in &outcomes[1..] {
        assert!(matches!(outcome, Err(Error::Disconnected(None))));
    }
    // Nothing can be sent any more, so there are no outcomes at all.
    let error = future::block_on(client.pipeline().get("a").send()).unwrap_err();
    assert!(matches!(error, Error::Disconnected(None)));
}

/// A server that refuses the connection says why, then hangs up; writing fails before that is
/// read.
#[test]
fn the_last_words_are_read_though_writing_fails() {
    let (client, far) = mute();
    far.say(":error:0:full:too many clients\n");
    far.hang_up();
    far.go_deaf();
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
    let (client, far) = mute();
    far.go_deaf();
    let error = future::block_on(client.get("k")).unwrap_err();
    let Error::Disconnected(Some(source)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(error.to_string().contains("pipe"), "{error}");
}

/// The wire may grow: neither ends the connection.
#[test]
fn what_a_newer_server_says_is_no_fault() {
    let (client, far) = mute();
    let mut pipeline = Box::pin(client.pipeline().put("a", "1").get("k").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    far.say(
        ":hello\n:error:1:throttled:wait: a while\nk:1\n:set:k:2\nk:2\n:::\n:sync:0:3\n:bye:\n",
    );
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    match &outcomes[0] {
        Err(Error::Refused {
            code: Code::Other,
            message,
        }) => assert_eq!(message, "throttled:wait: a while"),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(outcomes[1].as_ref().unwrap(), &[b"1", b"2"]);
    // A refused fence, and an error of no line.
    let mut put = Box::pin(client.put("k", "v"));
    assert!(poll(put.as_mut()).is_pending());
    far.say(":error:0:news:of the day\n:error:5:later:not now\n");
    let Poll::Ready(Err(error)) = poll(put.as_mut()) else {
        panic!("no error");
    };
    assert!(
        matches!(&error, Error::Unconfirmed { code: Code::Other, message } if message == "later:not now"),
        "{error}"
    );
    let mut put = Box::pin(client.put("k", "v"));
    assert!(poll(put.as_mut()).is_pending());
    far.say(":sync:0:7\n");
    assert!(matches!(poll(put.as_mut()), Poll::Ready(Ok(()))));
}

/// A server that ends a connection says why in its last line.
#[test]
fn the_last_refusal_is_why_a_connection_ended() {
    let (client, far) = mute();
    let mut calls = Box::pin(
        client
            .pipeline()
            .put("a", "1")
            .put("b", "2")
            .put("c", "3")
            .send(),
    );
    assert!(poll(calls.as_mut()).is_pending());
    far.say(":error:2:unauthorized:that is not the secret\n");
    far.hang_up();
    let Poll::Ready(Ok(outcomes)) = poll(calls.as_mut()) else {
        panic!("no outcomes");
    };
    let unauthorized = |error: &Error, sent: bool| match error {
        Error::Refused { code, message } | Error::Unconfirmed { code, message } => {
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
        let (client, far) = mute();
        let mut call = Box::pin(client.pipeline().get("k").get("k").send());
        assert!(poll(call.as_mut()).is_pending());
        far.say(":error:1:unauthorized:first say Auth:secret\n:sync:0:2\n");
        if went_on != ":sync:0:2\n" {
            far.say(went_on);
        }
        far.hang_up();
        assert!(poll(call.as_mut()).is_ready());
        let error = future::block_on(client.get("k")).unwrap_err();
        assert!(matches!(error, Error::Disconnected(None)), "{error}");
    }
}

/// What the server had taken before it refused the rest may be applied; what asks and changes
/// nothing is just refused.
#[test]
fn a_server_that_closes_says_so_to_all_who_wait() {
    let (client, far) = mute();
    let mut pipeline = Box::pin(client.pipeline().put("a", "1").get("k").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    far.say(":error:0:closing:the server is shutting down\n");
    far.hang_up();
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    let closing = Code::Closing;
    assert!(matches!(&outcomes[0], Err(Error::Unconfirmed { code, .. }) if *code == closing));
    assert!(matches!(&outcomes[1], Err(Error::Refused { code, .. }) if *code == closing));
}

/// Says the same for ever.
#[derive(Clone)]
struct Endless(&'static [u8], u64);

impl futures_lite::AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let n = buffer.len() / self.0.len() * self.0.len();
        for piece in buffer[..n].chunks_mut(self.0.len()) {
            piece.copy_from_slice(self.0);
        }
        self.1 += n as u64;
        assert!(self.1 < 200 << 20, "the client takes anything");
        Poll::Ready(Ok(n))
    }
}

impl futures_lite::AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn what_never_ends_is_not_kept_for_ever() {
    static REPLY: [u8; 2000] = {
        let mut line = [b'x'; 2000];
        line[0] = b'k';
        line[1] = b':';
        line[1999] = b'\n';
        line
    };
    for (said, expected) in [
        (&b"x"[..], "a line without end"),
        (&REPLY, "a reply without end"),
    ] {
        let client = Client::from_stream(Endless(said, 0));
        let error = future::block_on(client.get("k")).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..12u64).prop_map(|token| format!(":sync:0:{token}\n")),
        (0..12u64).prop_map(|line| format!(":error:{line}:store:no\n")),
        Just("k:v\n".to_string()),
        Just(":watch:k\n".to_string()),
        Just(":put:k:v\n".to_string()),
        Just(":missed:7\n".to_string()),
        Just(":other:7\n".to_string()),
        (0..12u64).prop_map(|line| format!(":error:{line}:other:no\n")),
        Just(":stats:active=1\n".to_string()),
        "[k:v\n0-9a-z]{0,12}",
    ]
}

proptest! {
    /// Whatever a server says, a client that is told the end of it has its answers or an error.
    #[test]
    fn no_words_of_a_server_can_hang_or_panic_a_client(
        said in prop::collection::vec(fragment(), 0..12)
    ) {
        let (client, far) = mute();
        let calls = async {
            let pipeline = client.pipeline().put("k", "v").get("k").get("k").send();
            let both = future::zip(pipeline, client.get_and_watch("k"));
            let end = async { said.iter().for_each(|words| far.say(words)); far.hang_up() };
            let ((outcomes, watched), ()) = future::zip(both, end).await;
            if let Ok((_, watcher)) = watched {
                let events: Vec<_> = watcher.collect().await;
                prop_assert!(matches!(events.last(), Some(Err(_))));
            }
            prop_assert!(outcomes.map_or(true, |outcomes| outcomes.len() == 3));
            prop_assert!(client.get("k").await.is_err());
            Ok(())
        };
        future::block_on(calls)?;
    }
}
