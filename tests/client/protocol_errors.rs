//! What the client makes of a server that says what it must not, and of a newer one.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::{FutureExt as _, future};
use keywire::{Client, Error, protocol::Code};

use super::with_fences;
use crate::common::scripted::{poll, silent};

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
        let (client, server) = with_fences(said);
        if expected.is_empty() {
            server.close();
        }
        let expected = match *expected {
            "" => "the connection is over",
            words => words,
        };
        let hasty = client.with_timeout(crate::common::DEADLINE);
        let (one, other) = future::block_on(future::zip(hasty.get("k"), client.get("k")));
        for error in [one.unwrap_err(), other.unwrap_err()] {
            assert!(error.to_string().ends_with(expected), "{said:?}: {error}");
        }
        // It stays broken, and lets go of the stream at once.
        let error = future::block_on(client.put("k", "v")).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{said:?}: {error}");
        assert!(server.is_released(), "{said:?}");
    }
}

#[test]
fn nonsense_for_other_commands() {
    let broken = |said, expected: &str, call: fn(&Client) -> future::Boxed<Error>| {
        let (client, _server) = with_fences(said);
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

/// The wire may grow: neither ends the connection.
#[test]
fn what_a_newer_server_says_is_no_fault() {
    let (client, server) = silent();
    let mut pipeline = Box::pin(client.pipeline().put("a", "1").get("k").send());
    assert!(poll(pipeline.as_mut()).is_pending());
    server.send(
        ":hello\n:error:1:throttled:wait: a while\nk:1\n:set:k:2\nk:2\n:::\n:sync:0:3\n:bye:\n",
    );
    let Poll::Ready(Ok(outcomes)) = poll(pipeline.as_mut()) else {
        panic!("no outcomes");
    };
    match &outcomes[0] {
        Err(Error::Refused {
            code: Code::Other,
            message,
            ..
        }) => assert_eq!(message, "throttled:wait: a while"),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(
        outcomes[1].as_ref().unwrap().values().unwrap(),
        [b"1", b"2"]
    );
    // A refused fence, and an error of no line.
    let mut put = Box::pin(client.put("k", "v"));
    assert!(poll(put.as_mut()).is_pending());
    server.send(":error:0:news:of the day\n:error:5:later:not now\n");
    let Poll::Ready(Err(error)) = poll(put.as_mut()) else {
        panic!("no error");
    };
    assert!(
        matches!(&error, Error::Unconfirmed { code: Code::Other, message, .. } if message == "later:not now"),
        "{error}"
    );
    let mut put = Box::pin(client.put("k", "v"));
    assert!(poll(put.as_mut()).is_pending());
    server.send(":sync:0:7\n");
    assert!(matches!(poll(put.as_mut()), Poll::Ready(Ok(()))));
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
