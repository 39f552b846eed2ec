//! Authentication: until it has sent the secret, a connection can do nothing.

use std::{sync::atomic::Ordering, time::Duration};

use futures_lite::future;
use keywire::{Client, Error, Secret, Server, protocol::Code, store::Memory};

use crate::common::{TestServer, flood::Flood, local::LocalServer, stores::ManualClock};

const SECOND: Duration = Duration::from_secs(1);

const FIRST: &str = "unauthorized:first say Auth:secret";

const WRONG: &str = "unauthorized:that is not the secret";

fn secret() -> Secret {
    Secret::new("open:sesame").unwrap()
}

fn guarded() -> (LocalServer<Memory>, ManualClock) {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).secret(secret());
    (LocalServer::new(server.build()), clock)
}

fn pass(server: &mut LocalServer<Memory>, clock: &ManualClock, time: Duration) {
    server.run();
    clock.advance(time);
    server.run();
}

#[test]
fn the_secret_lets_in_and_lines_are_counted_from_the_first() {
    let whole = b"\nAuth:open:sesame\r\nPut:k:v\nGet:k\nno\nSyn";
    for cut in 0..whole.len() {
        let (mut server, _) = guarded();
        let mut client = server.connect();
        client.send(&whole[..cut]);
        server.run();
        client.send(&whole[cut..]);
        client.send("c\n");
        let heard = client.receive_all(&mut server);
        let (first, rest) = heard.split_once('\n').unwrap();
        assert_eq!(first, "k:v");
        assert!(rest.starts_with(":error:5:unknown:") && rest.ends_with(":sync:0:\n"));
        let stats = server.stats();
        assert_eq!((stats.auths, stats.unauthorized, stats.commands), (1, 0, 4));
    }
}

#[test]
fn before_that_nothing_is_done_and_the_third_line_is_the_last() {
    let (mut server, clock) = guarded();
    let mut client = server.connect();
    client.send("Put:k:v\n\nAuth:open\nGet:k\nAuth:open:sesame\nGet:k\n");
    let mut heard = Vec::new();
    for _ in 0..3 {
        server.run();
        assert_eq!(client.received(), "", "each answer takes its time");
        clock.advance(SECOND);
        server.run();
        heard.push(client.received());
    }
    let expected = [
        format!(":error:1:{FIRST}\n"),
        format!(":error:3:{WRONG}\n"),
        format!(":error:4:{FIRST}\n"),
    ];
    assert_eq!(heard, expected);
    assert!(client.is_disconnected());
    let stats = server.stats();
    assert_eq!((stats.puts, stats.gets, stats.commands), (0, 0, 0));
    assert_eq!((stats.unauthorized, stats.errors), (3, 3));
    pass(&mut server, &clock, 2 * SECOND);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (0, 1));
}

#[test]
fn after_a_failure_it_may_still_be_said() {
    let (mut server, clock) = guarded();
    let mut client = server.connect();
    client.send("Auth:\nAuth:open:sesame\nSync:in\n");
    pass(&mut server, &clock, SECOND);
    let heard = client.receive_all(&mut server);
    assert_eq!(heard, format!(":error:1:{WRONG}\n:sync:0:in\n"));
}

#[test]
fn it_has_its_time() {
    let (mut server, clock) = guarded();
    let (mut silent, mut slow) = (server.connect(), server.connect());
    for byte in "Auth:open".chars() {
        slow.send(byte.to_string());
        pass(&mut server, &clock, SECOND);
    }
    assert_eq!(silent.received() + &slow.received(), "");
    pass(&mut server, &clock, SECOND);
    for client in [&mut silent, &mut slow] {
        let late = "unauthorized:Auth:secret has not come within 10s";
        assert_eq!(client.received(), format!(":error:0:{late}\n"));
        assert!(client.is_disconnected());
    }
    assert_eq!(server.stats().unauthorized, 2);
    pass(&mut server, &clock, 2 * SECOND);
    assert_eq!(server.stats().active, 0);
}

/// Blank lines are no failures. Whoever sends nothing else, without a pause, is no one's hindrance,
/// and has no more time than others.
#[test]
fn a_flood_of_blank_lines_is_over_in_time() {
    let (mut server, clock) = guarded();
    let flood = Flood::new(b'\n', &clock, 50_000);
    let reads = flood.reads();
    server.attach(flood);
    let reads = reads.load(Ordering::SeqCst);
    // Ten seconds, and two to hear why.
    assert!(reads <= 12_010, "{reads}");
    let stats = server.stats();
    assert_eq!((stats.unauthorized, stats.active), (1, 0));
}

/// Who says it slowly is not idle, and who has said it has the whole time from then on.
#[test]
fn to_say_it_is_a_move() {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).secret(secret());
    let mut server = LocalServer::new(server.idle_timeout(5 * SECOND).build());
    let mut client = server.connect();
    client.send("Auth:open");
    pass(&mut server, &clock, 3 * SECOND);
    client.send(":sesame\n");
    pass(&mut server, &clock, 4 * SECOND);
    assert_eq!((client.received().as_str(), server.stats().idle), ("", 0));
    pass(&mut server, &clock, SECOND);
    let idle = "closing:nothing has moved here for 5s";
    assert_eq!(client.received(), format!(":error:0:{idle}\n"));
}

/// What is not let in holds next to nothing.
#[test]
fn a_long_line_is_not_read_to_its_end() {
    let (mut server, clock) = guarded();
    let mut client = server.connect();
    client.send(format!("Auth:{}", "x".repeat(1 << 20)));
    pass(&mut server, &clock, SECOND);
    assert_eq!(client.received(), format!(":error:1:{FIRST}\n"));
    assert!(client.is_disconnected());
}

/// Its time is that of the secret's answer, so it does not count as idle.
#[test]
fn to_wait_for_the_answer_is_not_idleness() {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).secret(secret());
    let mut server = LocalServer::new(server.idle_timeout(SECOND / 2).build());
    let mut client = server.connect();
    client.send("Auth:open\n");
    pass(&mut server, &clock, SECOND / 2);
    pass(&mut server, &clock, SECOND / 2);
    assert_eq!(client.received(), format!(":error:1:{WRONG}\n"));
    // Nor is to say it byte by byte.
    for byte in "Auth:open:sesame\nSync\n".chars() {
        client.send(byte.to_string());
        pass(&mut server, &clock, SECOND / 4);
    }
    assert_eq!(client.received(), ":sync:0:\n");
    assert_eq!(server.stats().idle, 0);
}

/// Also where it came in one read with the secret.
#[test]
fn a_line_behind_the_secret_has_its_time() {
    let clock = ManualClock::new();
    let server = Server::builder().clock(clock.clone()).secret(secret());
    let mut server = LocalServer::new(server.line_timeout(10 * SECOND).build());
    let mut client = server.connect();
    client.send("Auth:open:sesame\nPut:ha");
    pass(&mut server, &clock, 10 * SECOND);
    assert_eq!(
        client.received(),
        ":error:2:too-long:the line took longer than 10s\n"
    );
    assert_eq!(server.stats().slow_lines, 1);
}

#[test]
fn the_end_of_the_input_is_the_end() {
    let (mut server, _) = guarded();
    let (mut polite, mut cut_off) = (server.connect(), server.connect());
    polite.half_close();
    cut_off.send("\nAuth:open:sesame");
    cut_off.half_close();
    server.run();
    assert_eq!(polite.received(), "");
    assert_eq!(cut_off.received(), format!(":error:2:{FIRST}\n"));
    assert!(polite.is_disconnected() && cut_off.is_disconnected());
}

#[test]
fn it_may_be_said_again_and_has_to_be_right() {
    let (mut server, _) = guarded();
    let mut client = server.connect();
    client.send("Auth:open:sesame\nAuth:open:sesame\nAuth:open\nSync\n");
    let heard = client.receive_all(&mut server);
    assert_eq!(heard, format!(":error:3:{WRONG}\n:sync:0:\n"));
    let stats = server.stats();
    assert_eq!((stats.auths, stats.unauthorized, stats.commands), (2, 1, 3));
    // Where nobody asks for one, any will do.
    let mut server = LocalServer::new(Server::new());
    let mut client = server.connect();
    client.send("Auth:\nAuth:a:b\nAuth\nSync\n");
    let heard = client.receive_all(&mut server);
    assert!(heard.starts_with(":error:3:malformed:"), "{heard}");
    assert!(heard.ends_with("\n:sync:0:\n"));
}

#[test]
fn a_shutdown_does_not_wait_for_it() {
    let (mut server, clock) = guarded();
    let (mut silent, mut wrong) = (server.connect(), server.connect());
    wrong.send("no\n");
    server.run();
    silent.half_close();
    wrong.half_close();
    clock.advance(SECOND);
    server.shut_down();
    assert_eq!(silent.received(), "");
    assert_eq!(wrong.received(), format!(":error:1:{FIRST}\n"));
}

#[test]
fn a_secret_is_one_line_and_is_never_shown() {
    for wrong in ["", "a\nb", "a\r", &"x".repeat(513)] {
        let error = Secret::new(wrong).unwrap_err();
        assert!(matches!(error, Error::Secret(_)));
        assert!(wrong.is_empty() || !error.to_string().contains(wrong));
    }
    assert!(Secret::new([0xff; 512]).is_ok());
    let builder = Server::builder().secret(secret());
    let mut shown = format!("{builder:?} {:?}", secret());
    shown += &format!("{:?}", builder.build());
    assert!(!shown.contains("sesame"), "{shown}");
}

#[test]
fn a_file_holds_one_and_is_named_where_it_does_not() {
    let path = std::env::temp_dir().join(format!("keywire-secret-{}", std::process::id()));
    let read = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        Secret::from_file(&path).map(|secret| secret.expose().to_vec())
    };
    for text in [&b"open:sesame"[..], b"open:sesame\n", b"open:sesame\r\n"] {
        assert_eq!(read(text).unwrap(), b"open:sesame");
    }
    let longest = [&[b'x'; 512][..], b"\r\n"].concat();
    assert_eq!(read(&longest).unwrap().len(), 512);
    for text in [&b""[..], b"\n", b"a\nb\n", b"a\n\n", &[b'x'; 5000]] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("keywire-secret"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = Secret::from_file(&path).unwrap_err().to_string();
    assert!(
        error.starts_with("no secret: ") && error.contains("keywire-secret"),
        "{error}"
    );
}

#[test]
fn a_client_says_it_on_its_connection() {
    let server = TestServer::start(Server::builder().secret(secret()).build());
    future::block_on(async {
        let client = Client::connect(server.address).await.unwrap();
        let wrong = Secret::new("sesame").unwrap();
        match client.authenticate(&wrong).await {
            Err(Error::Refused { code, .. }) => assert_eq!(code, Code::Unauthorized),
            other => panic!("{other:?}"),
        }
        client.authenticate(&secret()).await.unwrap();
        client.put("k", "v").await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        let shown = format!("{client:?}");
        assert!(!shown.contains("sesame"), "{shown}");
    });
}

/// A web page that does not know the secret has one try, and an answer at once.
#[test]
fn http_and_tls_end_a_connection_before_the_secret_too() {
    let http = "this is no HTTP server; nothing behind this line is looked at";
    let tls = "the client seems to speak TLS, and this port does not";
    for (said, line, words) in [
        (
            "\nPOST / HTTP/1.1\r\nHost: x\r\n\r\nAuth:open:sesame\nPut:a:1\n",
            2,
            http,
        ),
        ("host: x\nAuth:open:sesame\nPut:a:1\n", 1, http),
        ("\x16\x03\x01", 1, tls),
    ] {
        let (mut server, clock) = guarded();
        let mut client = server.connect();
        client.send(said);
        server.run();
        assert_eq!(
            client.received(),
            format!(":error:{line}:malformed:{words}\n")
        );
        assert!(client.is_disconnected());
        pass(&mut server, &clock, 2 * SECOND);
        let stats = server.stats();
        assert_eq!((stats.active, stats.auths, stats.puts), (0, 0, 0));
    }
    // Behind the secret, nobody is taken for a web page.
    let (mut server, _) = guarded();
    let mut client = server.connect();
    client.send("Auth:open:sesame\nHost: x\nSync\n");
    let heard = client.receive_all(&mut server);
    assert!(heard.starts_with(":error:2:unknown:") && heard.ends_with(":sync:0:\n"));
}

/// The connection is over with it, and that is what a client hears.
#[test]
fn the_third_wrong_line_is_why_the_connection_ends() {
    let server = TestServer::start(Server::builder().secret(secret()).build());
    let wrong = Secret::new("sesame").unwrap();
    future::block_on(async {
        let client = Client::connect(server.address).await.unwrap();
        let mut errors = Vec::new();
        // Each is two wrong lines, with the fence.
        for _ in 0..2 {
            errors.push(client.authenticate(&wrong).await.unwrap_err());
        }
        errors.push(client.get("k").await.unwrap_err());
        for error in errors {
            match error {
                Error::Refused { code, message, .. } => {
                    assert_eq!(
                        (code, &message[..]),
                        (Code::Unauthorized, "that is not the secret")
                    );
                }
                error => panic!("{error:?}"),
            }
        }
    });
}
