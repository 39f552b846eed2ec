//! Sharing a connection: what goes together, what a dropped call leaves behind, who is woken, and
//! who closes it.

use std::{
    collections::HashSet,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_lite::{FutureExt as _, StreamExt as _, future};
use keywire::{Client, Error};

use crate::common::scripted::{self, answering, poll, silent};

#[test]
fn calls_at_the_same_time_share_writes_and_fences() {
    let (client, server) = answering();
    server.allow_io(Some(0));
    let mut calls: Vec<_> = (0..64)
        .map(|n| {
            let client = client.clone();
            async move { client.put("k", n.to_string()).await.unwrap() }.boxed()
        })
        .collect();
    for call in &mut calls {
        assert!(poll(call.as_mut()).is_pending());
    }
    server.allow_io(None);
    for call in calls {
        future::block_on(call);
    }
    assert_eq!(server.commands().len(), 64);
    // The first had nobody to share with.
    assert_eq!((server.writes(), server.lines()), (2, 64 + 2));
    // In the order asked.
    let sent: Vec<_> = (0..64).map(|n| format!("Put:k:{n}")).collect();
    assert_eq!(server.commands(), sent);
}

/// While one is under way, whoever comes lets the others of its thread come too before it writes.
#[test]
fn those_who_come_together_are_sent_together() {
    let (client, server) = silent();
    let mut calls: Vec<_> = (0..64).map(|_| Box::pin(client.get("k"))).collect();
    for call in &mut calls {
        assert!(poll(call.as_mut()).is_pending());
    }
    assert_eq!((server.writes(), server.commands().len()), (1, 1));
    assert!(poll(calls[7].as_mut()).is_pending());
    assert_eq!((server.writes(), server.commands().len()), (2, 64));
}

#[test]
fn what_is_in_flight_has_a_bound() {
    let (client, server) = silent();
    let pipeline = (0..20_000).fold(client.pipeline(), |pipeline, _| pipeline.get("k"));
    let mut pipeline = Box::pin(pipeline.send());
    assert!(poll(pipeline.as_mut()).is_pending());
    assert!(poll(pipeline.as_mut()).is_pending());
    assert_eq!(server.commands().len(), 4096);
    // An answer makes room for a command.
    server.send("k:v\n:sync:0:2\n");
    assert!(poll(pipeline.as_mut()).is_pending());
    assert_eq!(server.commands().len(), 4097);
}

#[test]
fn a_pipeline_is_one_write_and_nobody_comes_between() {
    let (client, server) = answering();
    server.allow_io(Some(0));
    let mut pipeline = Box::pin(client.pipeline().put("a", "1").get("a").delete("a").send());
    let mut before = Box::pin(client.put("b", "2"));
    let mut behind = Box::pin(client.put("c", "3"));
    assert!(poll(before.as_mut()).is_pending());
    assert!(poll(pipeline.as_mut()).is_pending());
    assert!(poll(behind.as_mut()).is_pending());
    server.allow_io(None);
    future::block_on(async {
        behind.await.unwrap();
        assert_eq!(pipeline.await.unwrap().len(), 3);
        before.await.unwrap();
    });
    let sent = ["Put:b:2", "Put:a:1", "Get:a", "Delete:a", "Put:c:3"];
    assert_eq!(server.commands(), sent);
    assert_eq!(server.writes(), 2);
}

#[test]
fn a_call_that_is_dropped_before_it_is_sent_is_never_sent() {
    let (client, server) = answering();
    let first = client.put("k", "1");
    let second = client.put("k", "2");
    let mut first = pin!(first);
    assert!(poll(first.as_mut()).is_ready());
    let (client, muted) = silent();
    let mut waiting = Box::pin(client.put("k", "1"));
    assert!(poll(waiting.as_mut()).is_pending());
    let mut dropped = Box::pin(client.put("k", "2"));
    assert!(poll(dropped.as_mut()).is_pending());
    drop(dropped);
    let mut third = Box::pin(client.put("k", "3"));
    while muted.commands().len() < 2 {
        assert!(poll(third.as_mut()).is_pending());
    }
    assert_eq!(muted.commands(), ["Put:k:1", "Put:k:3"]);
    drop(second);
    assert_eq!(server.commands(), ["Put:k:1"]);
}

/// Every kind of call is dropped after every number of polls that it takes; the next call finds
/// its own answer.
#[test]
fn a_call_may_be_dropped_at_any_point() {
    type Call = fn(&Client) -> future::Boxed<()>;
    let calls: [Call; 12] = [
        |client| {
            let client = client.clone();
            async move { client.put("k", "new").await.unwrap() }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { drop(client.get("old").await.unwrap()) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { client.delete("k").await.unwrap() }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { assert_eq!(client.stats().await.unwrap().dropped, 2) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { drop(client.watch("old").await.unwrap()) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { drop(client.get_and_watch("old").await.unwrap()) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { client.set("k", "new").await.unwrap() }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { client.remove("k", "v").await.unwrap() }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { assert_eq!(client.get_prefix("o").count().await, 1) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { assert_eq!(client.keys("o").count().await, 1) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move { drop(client.get_and_watch_prefix("o").await.unwrap()) }.boxed()
        },
        |client| {
            let client = client.clone();
            async move {
                let pipeline = client
                    .pipeline()
                    .get("old")
                    .put("k", "1")
                    .get("k")
                    .get("old");
                drop(pipeline.send().await.unwrap());
            }
            .boxed()
        },
    ];
    for (kind, call) in calls.into_iter().enumerate() {
        for busy in [false, true] {
            let mut points = 0;
            for polls in 0.. {
                let (client, server) = answering();
                future::block_on(client.put("old", "value")).unwrap();
                server.allow_io(Some(0));
                let mut other = Box::pin(client.get("old"));
                if busy {
                    let _ = poll(other.as_mut());
                }
                let mut dropped = call(&client);
                let done = (0..polls).any(|_| {
                    let done = poll(dropped.as_mut()).is_ready();
                    server.allow_io(Some(1));
                    done
                });
                drop(dropped);
                server.allow_io(None);
                future::block_on(async {
                    let read = client.get("old").await.unwrap();
                    assert_eq!(read, [b"value"], "kind {kind} after {polls} polls");
                    client.put("mine", "1").await.unwrap();
                    assert_eq!(client.get("mine").await.unwrap(), [b"1"]);
                    if busy {
                        assert_eq!(other.await.unwrap(), [b"value"]);
                    }
                });
                if done {
                    points = polls;
                    break;
                }
            }
            assert!(points >= 3, "kind {kind} took only {points} polls");
        }
    }
}

/// As above, but the answer comes only after the call was dropped.
#[test]
fn the_reply_to_a_dropped_call_is_nobody_elses() {
    let (client, server) = silent();
    let mut dropped = Box::pin(client.get("k"));
    assert!(poll(dropped.as_mut()).is_pending());
    assert_eq!(server.lines(), 2);
    drop(dropped);
    let mut next = Box::pin(client.get("k"));
    assert!(poll(next.as_mut()).is_pending());
    assert_eq!(server.lines(), 4);
    server.send("k:late\n:sync:0:2\n");
    assert!(poll(next.as_mut()).is_pending());
    server.send("k:mine\n:sync:0:4\n");
    match poll(next.as_mut()) {
        Poll::Ready(Ok(values)) => assert_eq!(values, [b"mine"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_has_timed_out_once_goes_on() {
    let (client, server) = silent();
    let hasty = client.with_timeout(Duration::from_millis(5));
    let error = future::block_on(hasty.get("k")).unwrap_err();
    assert!(matches!(error, Error::TimedOut), "{error}");
    server.send("k:late\n:sync:0:2\nk:mine\n:sync:0:4\n");
    assert_eq!(future::block_on(client.get("k")).unwrap(), [b"mine"]);
}

#[test]
fn the_last_handle_closes_the_connection() {
    // Idle, or with a call that was dropped half-way, or a watch, or a task that still waits.
    let (client, server) = answering();
    let clone = client.clone();
    future::block_on(client.put("k", "v")).unwrap();
    drop(client);
    assert!(!server.is_released());
    drop(clone);
    assert!(server.is_released());

    let (client, server) = silent();
    let mut call = Box::pin(client.get("k"));
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    assert!(!server.is_released());
    drop(client);
    assert!(server.is_released());

    let (client, server) = answering();
    let mut watcher = future::block_on(client.watch("k")).unwrap();
    drop(client);
    assert!(future::block_on(future::poll_once(watcher.next())).is_none());
    assert!(!server.is_released());
    drop(watcher);
    assert!(server.is_released());
}

/// Notes who is woken.
struct Note(usize, Arc<Mutex<HashSet<usize>>>);

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().insert(self.0);
    }
}

/// Whoever waits could be the one that is polled next, so all of them are woken for bytes.
#[test]
fn everyone_who_waits_is_woken_for_bytes() {
    let (client, server) = silent();
    let woken = Arc::new(Mutex::new(HashSet::new()));
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(client.get("k"))).collect();
    for _ in 0..3 {
        for (number, call) in calls.iter_mut().enumerate() {
            let waker = Waker::from(Arc::new(Note(number, woken.clone())));
            assert!(call.poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    woken.lock().unwrap().clear();
    server.send("k:1\n:sync:0:2\n");
    assert_eq!(woken.lock().unwrap().len(), 3);
    // The last of them does the work for the first, which is told.
    woken.lock().unwrap().clear();
    assert!(poll(calls[2].as_mut()).is_pending());
    assert!(woken.lock().unwrap().contains(&0));
    assert!(poll(calls[0].as_mut()).is_ready());
}

/// A stream that panics takes its connection with it, and nothing else.
#[test]
fn a_stream_that_panics_is_a_connection_that_is_over() {
    let (stream, server) =
        scripted::pair(|line, _| assert!(line.starts_with("Sync"), "as planned"));
    let client = Client::from_stream(stream);
    let mut waiting = Box::pin(client.sync());
    assert!(poll(waiting.as_mut()).is_pending());
    let other = client.clone();
    std::thread::spawn(move || future::block_on(other.put("k", "v")))
        .join()
        .unwrap_err();
    let Poll::Ready(Err(error)) = poll(waiting.as_mut()) else {
        panic!("still waiting");
    };
    assert!(matches!(error, Error::Disconnected(None)), "{error}");
    drop(server);
}

/// A call that waits to be sent, or to be answered, when the connection ends.
#[test]
fn whoever_waits_hears_of_the_end() {
    let (client, server) = silent();
    server.allow_io(Some(0));
    let mut first = Box::pin(client.put("k", "1"));
    let mut queued = Box::pin(client.put("k", "2"));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(queued.as_mut()).is_pending());
    client.close();
    match poll(first.as_mut()) {
        Poll::Ready(Err(Error::Disconnected(None))) => {}
        other => panic!("{other:?}"),
    }
    match poll(queued.as_mut()) {
        Poll::Ready(Err(Error::NotSent(why))) => assert!(why.is_disconnected()),
        other => panic!("{other:?}"),
    }
    assert!(server.is_released());
}

/// What the server said before writing to it failed is still an answer, however long.
#[test]
fn answers_are_read_though_writing_fails() {
    let (client, server) = silent();
    let mut first = Box::pin(client.get("k"));
    assert!(poll(first.as_mut()).is_pending());
    server.fail_writes();
    server.send(format!("k:{}\n:sync:0:2\n", "x".repeat(300_000)));
    let mut second = Box::pin(client.get("k"));
    assert!(poll(second.as_mut()).is_pending());
    match poll(second.as_mut()) {
        Poll::Ready(Err(Error::Disconnected(Some(_)))) => {}
        other => panic!("{other:?}"),
    }
    match poll(first.as_mut()) {
        Poll::Ready(Ok(values)) => assert_eq!(values[0].len(), 300_000),
        other => panic!("{other:?}"),
    }
}

/// There is no room for its request, and nobody else comes to make some.
#[test]
fn a_caller_who_waits_for_room_makes_it() {
    let (client, server) = answering();
    server.allow_io(Some(0));
    let mut kept: Vec<_> = (0..300).map(|_| Box::pin(client.put("k", "1"))).collect();
    for call in &mut kept {
        assert!(poll(call.as_mut()).is_pending());
    }
    let mut last = Box::pin(client.get("k"));
    assert!(poll(last.as_mut()).is_pending());
    server.allow_io(None);
    // Those before it in the line are let go; it is not.
    kept.truncate(257);
    let values = future::block_on(last).unwrap();
    assert_eq!(values.len(), 257);
}
