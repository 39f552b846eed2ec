//! The example client's line mode: what its exit code says of the replies.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use keywire::Server;

use crate::common::{
    DEADLINE, TestServer, example,
    tools::{ChildProcess, command, expect},
};

fn start() -> TestServer {
    TestServer::start(Server::new())
}

/// What the client makes of these lines.
fn lines(address: SocketAddr, options: &[&str], input: &str) -> Output {
    // One that does not end is killed, and has another exit code then.
    let mut command = Command::new("timeout");
    command
        .arg(DEADLINE.as_secs().to_string())
        .arg(example("client"))
        .args(["--connect", &address.to_string()])
        .args(options);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The client may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Serves one client with this function.
fn serve(serving: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || serving(listener.accept().unwrap().0));
    (address, serving)
}

/// Serves one client with these lines, in which TOKEN stands for that of its last `Sync`.
fn answer(replies: &'static str) -> (SocketAddr, JoinHandle<()>) {
    serve(move |mut stream| {
        let sent = io::read_to_string(&stream).unwrap();
        let token = sent
            .lines()
            .filter_map(|line| line.strip_prefix("Sync:"))
            .next_back();
        let replies = replies.replace("TOKEN", token.unwrap_or_default());
        stream.write_all(replies.as_bytes()).unwrap();
    })
}

#[test]
fn what_the_server_refused_or_dropped_is_told_at_the_end() {
    let server = start();
    let output = lines(server.address, &[], "Put:k:v\nGet:k\n");
    assert_eq!(expect(output, 0, "k:v\n"), "");
    assert_eq!(expect(lines(server.address, &[], ""), 0, ""), "");

    for (replies, code, printed, told) in [
        (":sync:0:TOKEN\n", 0, "", ""),
        // What else the server says is not for the client to judge.
        (
            ":new:kind\n:sync:0:mine\n:sync:0:TOKEN\n",
            0,
            ":new:kind\n:sync:0:mine\n",
            "",
        ),
        (
            ":error:1:full:no\n:sync:0:TOKEN\n",
            2,
            ":error:1:full:no\n",
            "sent 1 error\n",
        ),
        (
            "k:v\n:sync:3:TOKEN\n",
            2,
            "k:v\n",
            "dropped 3 reply lines\n",
        ),
        (
            ":sync:3:mine\n:sync:1:TOKEN\n",
            2,
            ":sync:3:mine\n",
            "dropped 4 reply lines\n",
        ),
        (
            ":error:1:full:no\n:error:2:full:no\n:sync:1:TOKEN\n",
            2,
            ":error:1:full:no\n:error:2:full:no\n",
            "sent 2 errors; the server dropped 1 reply line\n",
        ),
        ("", 2, "", "replies are owed\n"),
        ("k:v\n", 2, "k:v\n", "replies are owed\n"),
        (
            "k:v\nk:",
            2,
            "k:v\nk:",
            "replies are owed; the last line is cut\n",
        ),
        (
            "k:v\n:syn",
            2,
            "k:v\n:syn",
            "replies are owed; the last line is cut\n",
        ),
        (
            ":sync:0:TOKEN",
            2,
            "",
            "replies are owed; the last line is cut\n",
        ),
    ] {
        let (address, serving) = answer(replies);
        let output = lines(address, &[], "Get:k\n");
        // Its token is its own affair, but half a line that may not be its own is shown.
        let printed = match replies {
            ":sync:0:TOKEN" => String::from_utf8(output.stdout.clone()).unwrap(),
            _ => printed.to_owned(),
        };
        let errors = expect(output, code, printed);
        assert!(errors.ends_with(told), "{replies:?}: {errors:?}");
        assert!(errors.lines().count() <= 1, "{errors:?}");
        serving.join().unwrap();
    }
}

#[test]
fn long_control_lines_pass_as_they_are() {
    let server = start();
    let long = "x".repeat(1000);
    let input = format!("Watch:{long}\nPut:{long}:{long}\nSync:{long}\n");
    let printed = format!(":watch:{long}\n:put:{long}:{long}\n:sync:0:{long}\n");
    assert_eq!(expect(lines(server.address, &[], &input), 0, printed), "");
}

#[test]
fn replies_that_are_cut_off_are_an_error_wherever_that_is() {
    let server = start();
    let puts = (0..1000).map(|number| format!("Put:k:{number}\n"));
    server.connect().end_with(puts.collect::<String>());
    let replies: String = (0..1000).map(|number| format!("k:{number}\n")).collect();
    for length in [0, 5, 100, 4000, replies.len() - 1, replies.len()] {
        let to = server.address;
        let (address, serving) = serve(move |mut client| {
            let mut server = TcpStream::connect(to).unwrap();
            let (mut from_client, mut to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            let sending = thread::spawn(move || {
                io::copy(&mut from_client, &mut to_server).unwrap();
                to_server.shutdown(Shutdown::Write).unwrap();
            });
            io::copy(&mut (&mut server).take(length as u64), &mut client).unwrap();
            sending.join().unwrap();
        });
        let errors = expect(lines(address, &[], "Get:k\n"), 2, &replies[..length]);
        let cut = !matches!(replies[..length].chars().last(), None | Some('\n'));
        assert!(errors.contains("replies are owed"), "{errors}");
        assert_eq!(errors.contains("the last line is cut"), cut, "{errors}");
        serving.join().unwrap();
    }
}

#[test]
fn a_server_that_is_killed_owes_replies() {
    let (address, serving) = serve(|stream| {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        // What a system says in the name of a process that is gone.
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    // Whether it hears of a reset or of an end depends on what it did just then.
    expect(lines(address, &[], "Get:k\n"), 2, "");
    serving.join().unwrap();
}

#[test]
fn an_input_that_ends_within_a_line_is_an_error() {
    let server = start();
    let output = lines(server.address, &[], "Put:k:v\nGet:k\nDelete:k");
    let told = ":error:3:malformed:the input ended within a line; it was not applied\n";
    let errors = expect(output, 2, format!("k:v\n{told}"));
    assert!(errors.contains("the input ends within a line"), "{errors}");
    assert_eq!(server.handle.stats().keys, 1);
}

#[test]
fn a_silent_server_is_waited_for_as_long_as_the_time_limit() {
    for takes in [true, false] {
        let (ended, end) = mpsc::channel::<()>();
        let (address, serving) = serve(move |stream| {
            if takes {
                io::copy(&mut &stream, &mut io::sink()).unwrap();
            }
            // Nothing comes, but for the end of the channel.
            let _ = end.recv();
        });
        // More than finds room on the way.
        let input = "Put:k:v\n".repeat(if takes { 1 } else { 4_000_000 });
        let errors = expect(lines(address, &["--timeout", "0.2"], &input), 2, "");
        assert!(errors.contains("the time limit is over"), "{errors}");
        drop(ended);
        serving.join().unwrap();
    }
}

#[test]
fn whoever_reads_slowly_is_not_taken_for_a_silent_server() {
    let server = start();
    let value = "x".repeat(60_000);
    server
        .connect()
        .end_with(format!("Put:k:{value}\n").repeat(100));
    let mut client = ChildProcess::start(&mut command(&server, &["--timeout", "1"]));
    client.send("Get:k\n");
    client.input = None;
    // Longer than the limit.
    thread::sleep(Duration::from_secs(2));
    for _ in 0..100 {
        assert_eq!(client.line(), format!("k:{value}\n"));
    }
    assert_eq!(client.line(), "");
    assert_eq!(client.end(), Some(0), "{}", client.errors());
}
