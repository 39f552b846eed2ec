//! What a connection that is lost leaves in doubt, and what it does not.

use std::{
    collections::VecDeque,
    io,
    net::TcpListener,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite, StreamExt as _, future};
use keywire::{Client, ClientBuilder, Error, Server, protocol::Code};

use super::comes_back::poll_until;
use crate::common::{
    DEADLINE, TestServer,
    scripted::{self, ClientEnd, ScriptedServer, answers},
};

/// A client whose connections are these, one after the other. After the last, none can be made.
fn over<T>(streams: impl IntoIterator<Item = T>) -> ClientBuilder
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let streams = Mutex::new(streams.into_iter().collect::<VecDeque<_>>());
    let connect = move || {
        let next = streams.lock().unwrap().pop_front();
        future::ready(next.ok_or(io::ErrorKind::ConnectionRefused.into()))
    };
    Client::builder()
        .connector(connect)
        .answer_timeout(Some(DEADLINE))
        .reconnect_delays(Duration::ZERO, Duration::from_millis(20))
}

/// One that answers, but says this in place of an answer to that command. LINE stands for its number.
fn but_for(command: &'static str, says: &'static str) -> (ClientEnd, ScriptedServer) {
    let mut answer = answers();
    let mut number = 0;
    scripted::pair(move |line, out| {
        number += 1;
        match line == command {
            true => *out += &says.replace("LINE", &number.to_string()),
            false => answer(line, out),
        }
    })
}

/// One that answers, up to that command.
fn silent_from(command: &'static str) -> (ClientEnd, ScriptedServer) {
    let mut answer = answers();
    let mut silent = false;
    scripted::pair(move |line, out| {
        silent |= line == command;
        if !silent {
            answer(line, out);
        }
    })
}

/// Sends what it takes, and then may say that it has failed: as TLS does, of whose records some are
/// sent and some are not.
struct Leaky(ClientEnd, bool);

impl AsyncRead for Leaky {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Leaky {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let fails = self.1 && bytes.starts_with(b"Put");
        match Pin::new(&mut self.0).poll_write(cx, bytes) {
            Poll::Ready(Ok(_)) if fails => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            written => written,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn what_a_write_that_failed_has_sent_is_not_sent_again() {
    // It answers nothing, so that only the failure is seen.
    let greets = |line: &str, out: &mut String| {
        if line == "Sync:1" {
            *out += ":sync:0:1\n";
        }
    };
    let (first, failing) = scripted::pair(greets);
    let (second, server) = scripted::pair(answers());
    let client = over([Leaky(first, true), Leaky(second, false)]).build();
    future::block_on(async {
        let error = client.put("k", "v").await.unwrap_err();
        assert!(error.may_be_applied(), "{error}");
        client.sync().await.unwrap();
    });
    assert_eq!(failing.commands(), ["Put:k:v"]);
    assert!(server.commands().is_empty());
}

#[test]
fn a_write_that_is_refused_by_a_server_that_shuts_down_may_be_repeated() {
    let closing = ":error:LINE:closing:bye\n";
    let pairs = || [but_for("Put:k:v", closing), scripted::pair(answers())];
    let [(first, _a), (second, server)] = pairs();
    let client = over([first, second]).build();
    future::block_on(async {
        let repeating = client.with_repeated_writes();
        repeating.put("k", "v").await.unwrap();
        assert_eq!(server.commands(), ["Put:k:v"]);
    });
    let [(first, _a), (second, server)] = pairs();
    let client = over([first, second]).build();
    future::block_on(async {
        let error = client.put("k", "v").await.unwrap_err();
        assert!(
            !error.may_be_applied() && error.is_disconnected(),
            "{error}"
        );
        client.sync().await.unwrap();
        assert!(server.commands().is_empty());
    });
}

#[test]
fn a_read_that_was_sent_does_not_say_that_it_was_not() {
    let (stream, server) = silent_from("Get:k");
    let client = over([stream]).build();
    future::block_on(async {
        let mut pipeline = Box::pin(client.pipeline().get("k").put("k", "v").send());
        poll_until(pipeline.as_mut(), || {
            server
                .commands()
                .first()
                .is_some_and(|line| line == "Get:k")
        })
        .await;
        server.close();
        assert!(future::poll_once(pipeline.as_mut()).await.is_none());
        client.close();
        let outcomes = pipeline.await.unwrap();
        let read = outcomes.into_iter().next().unwrap().unwrap_err();
        assert!(matches!(read, Error::Disconnected(_)), "{read}");
    });
}

/// Whatever the server says instead: there is no watcher that waits for nothing.
#[test]
fn a_watcher_whose_watch_is_not_begun_anew_ends() {
    for says in [
        ":error:LINE:full:too many\n",
        ":error:LINE:unconfirmed:who knows\n",
    ] {
        let (first, broken) = scripted::pair(answers());
        let (second, _server) = but_for("Watch:k", says);
        let client = over([first, second]).build();
        future::block_on(async {
            let mut watcher = client.watch("k").await.unwrap();
            broken.close();
            let never = async {
                smol::Timer::after(DEADLINE).await;
                None
            };
            let event = future::or(watcher.next(), never).await;
            let error = event.expect("it ends").unwrap_err();
            let code = match error {
                Error::Refused { code, .. } | Error::Unconfirmed { code, .. } => code,
                error => panic!("{error}"),
            };
            assert!(matches!(code, Code::Full | Code::Unconfirmed));
            assert!(watcher.next().await.is_none());
            client.sync().await.unwrap();
        });
    }
}

/// Its system takes connections, and it answers none.
#[test]
fn a_server_that_does_not_answer_is_left_for_the_next() {
    let server = TestServer::start(Server::new());
    let stopped = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = Client::builder()
        .address(stopped.local_addr().unwrap())
        .address(server.address)
        .connect_timeout(Duration::from_millis(50))
        .answer_timeout(None)
        .connect();
    let never = async {
        smol::Timer::after(DEADLINE).await;
        panic!("it waits for a server that is stopped");
    };
    let client = future::block_on(future::or(connect, never)).unwrap();
    future::block_on(client.put("k", "v")).unwrap();
}

/// One that takes a long time for a long pipeline, and goes on answering.
#[test]
fn a_server_that_is_slow_is_not_silent() {
    let server = TestServer::start(Server::builder().max_line_rate(1000).build());
    future::block_on(async {
        let limit = Some(Duration::from_millis(400));
        let client = Client::builder()
            .address(server.address)
            .answer_timeout(limit)
            .connect()
            .await
            .unwrap();
        let client = client.with_timeout(DEADLINE);
        let mut pipeline = client.pipeline();
        for number in 0..2500 {
            pipeline = pipeline.put("k", number.to_string());
        }
        for outcome in pipeline.send().await.unwrap() {
            outcome.unwrap();
        }
        assert_eq!(client.get("k").await.unwrap().len(), 2500);
    });
}

/// A snapshot takes as long as it takes, as long as its keys come.
#[test]
fn a_snapshot_that_comes_slowly_is_not_late() {
    let (stream, server) = silent_from("GetPrefix:");
    let client = over([stream]).answer_timeout(Some(Duration::from_millis(200)));
    let client = client.build();
    future::block_on(async {
        let keys = async {
            for number in 0..20 {
                smol::Timer::after(Duration::from_millis(30)).await;
                server.send(format!("k{number}:v\n"));
            }
            let fence = server.lines();
            server.send(format!(":sync:0:{fence}\n"));
            future::pending().await
        };
        let read = client.get_and_watch_prefix("");
        let (snapshot, _watcher) = future::or(read, keys).await.unwrap();
        assert_eq!(snapshot.len(), 20);

        let mut read = Box::pin(client.get_and_watch_prefix(""));
        let error = future::or(async { read.as_mut().await.map(drop) }, async {
            smol::Timer::after(DEADLINE).await;
            panic!("it does not end")
        });
        let error = error.await.unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error}");
    });
}

/// Whoever shows what becomes of the connection hears that there is no other.
#[test]
fn an_observer_hears_of_the_end() {
    use keywire::ConnectionState::{Ended, Lost};
    let (first, server) = scripted::pair(answers());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let client = over([first]).on_connection(move |state| log.lock().unwrap().push(state));
    let client = client.build();
    future::block_on(async {
        client.sync().await.unwrap();
        server.send(":error:0:unauthorized:no\n");
        client.sync().await.unwrap_err();
    });
    let heard = heard.lock().unwrap();
    assert!(matches!(heard.last(), Some(Ended { .. })), "{heard:?}");
    assert!(!heard.iter().any(|state| matches!(state, Lost { .. })));
}

/// The time is over because nobody is there: that is what has to be said.
#[test]
fn a_call_that_was_not_sent_says_why_there_is_no_connection() {
    let client = over::<ClientEnd>([]).build();
    let hasty = client.with_timeout(Duration::from_millis(30));
    let error = future::block_on(hasty.put("k", "v")).unwrap_err();
    let why = match &error {
        Error::NotSent(why) => matches!(**why, Error::Connect(_)),
        _ => false,
    };
    assert!(why && !error.may_be_applied(), "{error}");
}

/// A server that shuts down stops a walk, and applies what it had read behind it.
#[test]
fn a_write_behind_a_walk_that_is_stopped_is_in_doubt() {
    let (stream, server) = silent_from("GetPrefix:");
    let client = over([stream]).build();
    future::block_on(async {
        let mut walk = client.get_prefix("");
        let walking = async { walk.next().await.unwrap().map(drop) };
        let mut calls = Box::pin(future::zip(walking, client.put("k", "v")));
        poll_until(calls.as_mut(), || server.commands().len() == 2).await;
        server.send(":error:2:closing:bye\n");
        server.close();
        let (walked, written) = calls.await;
        assert!(walked.is_err());
        let error = written.unwrap_err();
        assert!(error.may_be_applied(), "{error}");
    });
}
