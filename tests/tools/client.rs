//! The example client and chat at work on a server.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, process::Command};

use keywire::Server;

use crate::{
    common::{
        TestServer, example,
        proxy::Proxy,
        tools::{ChildProcess, client, command, expect},
        wait_until,
    },
    say,
};

pub(crate) fn start() -> TestServer {
    TestServer::start(Server::new())
}

/// Begins a watch and waits until the server knows of it.
pub(crate) fn watch(server: &TestServer, arguments: &[&str]) -> ChildProcess {
    // What is watched now may be of one who is about to go.
    let watches = server.handle.stats().watches;
    let running = ChildProcess::start(&mut command(server, arguments));
    wait_until("the watch has begun", || {
        server.handle.stats().watches > watches
    });
    running
}

#[test]
fn each_command_does_what_it_says() {
    let server = start();
    expect(client(&server, &["get", "user"]), 1, "");
    expect(client(&server, &["put", "user", "alice"]), 0, "");
    expect(client(&server, &["put", "user", "-5:a"]), 0, "");
    expect(client(&server, &["put", "user", ""]), 0, "");
    expect(client(&server, &["get", "user"]), 0, "alice\n-5:a\n\n");
    expect(client(&server, &["update", "user", "alice", "bob"]), 0, "");
    expect(client(&server, &["get", "user"]), 0, "bob\n-5:a\n\n");
    expect(client(&server, &["delete", "user"]), 0, "");
    expect(client(&server, &["get", "user"]), 1, "");
}

#[test]
fn what_a_terminal_would_obey_is_escaped_and_all_else_stays() {
    for same in [
        "",
        "plain",
        "tab\t",
        "äöü 中文 🦀 e\u{301}",
        "a\\b",
        "\u{a0}\u{200d}",
    ] {
        assert_eq!(say::shown(same.as_bytes()), same);
    }
    for (raw, shown) in [
        (&b"\x00\x07\x1b\r\n\x7f"[..], r"\x00\x07\x1b\x0d\x0a\x7f"),
        (b"\x9b2J", r"\x9b2J"),
        ("\u{80}\u{9b}\u{9f}".as_bytes(), r"\u{80}\u{9b}\u{9f}"),
        (b"a\xff\xc3", r"a\xff\xc3"),
        (
            "\u{202e}x\u{2066}\u{200f}\u{61c}".as_bytes(),
            r"\u{202e}x\u{2066}\u{200f}\u{61c}",
        ),
        ("\u{2028}\u{2029}".as_bytes(), r"\u{2028}\u{2029}"),
    ] {
        assert_eq!(say::shown(raw), shown);
    }
}

#[test]
fn the_counters_are_a_line_each() {
    let server = start();
    client(&server, &["put", "k", "v"]);
    let output = client(&server, &["stats", "--timeout", "30"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let counters: Vec<Vec<_>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(counters.iter().all(|counter| counter.len() == 2));
    for expected in [["active", "1"], ["puts", "1"], ["keys", "1"]] {
        assert!(counters.contains(&expected.to_vec()), "{text}");
    }
}

#[test]
fn bytes_are_passed_as_they_are() {
    let server = start();
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let put = ["put".into(), raw(b"\xff\xfe"), raw(b"\x80\x01")];
    expect(client(&server, &put), 0, "");
    let get = ["get".into(), raw(b"\xff\xfe")];
    expect(client(&server, &get), 0, b"\x80\x01\n");
}

#[test]
fn errors_are_explained_and_have_a_code_of_their_own() {
    let server = start();
    for (arguments, reason) in [
        (&["put", "a:b", "c"][..], "the key holds a colon"),
        (&["get", ""], "the key is empty"),
        (&["put", "k", "a\nb"], "line feed"),
        (&["put", "k"], "VALUE"),
        (&["explode"], "explode"),
        (&["stats", "--timeout", "0"], "number of seconds"),
    ] {
        let errors = expect(client(&server, arguments), 2, "");
        assert!(errors.contains(reason), "{errors}");
    }
    for (address, reason) in [
        ("127.0.0.1:1", "refused"),
        ("nowhere", "expected HOST:PORT, :PORT or PORT"),
        ("::1:9999", "an IPv6 address stands in brackets"),
        ("unix:/nowhere/at/all", "No such file"),
        ("unix:", "the path is empty"),
    ] {
        let mut command = Command::new(example("client"));
        let output = command.args(["get", "k", "--connect", address]).output();
        let errors = expect(output.unwrap(), 2, "");
        assert!(errors.contains(reason), "{errors}");
        let mut command = Command::new(example("chat"));
        let output = command.args(["ann", "--connect", address]).output();
        let errors = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(errors.contains(reason), "{errors}");
    }
    client(&server, &["put", "k", "v"]);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = command(&server, &["get", "k"]).stdout(full).output();
    let errors = expect(output.unwrap(), 2, "");
    assert!(errors.contains("standard output"), "{errors}");
}

#[test]
fn a_watch_prints_changes_as_they_come_until_a_signal() {
    let server = start();
    for (arguments, signal) in [
        (&["watch", "k"][..], "-INT"),
        (&["watch", "--prefix", "k"], "-TERM"),
    ] {
        let mut watch = watch(&server, arguments);
        client(&server, &["put", "other", "1"]);
        client(&server, &["put", "k", "1:2"]);
        assert_eq!(watch.line(), "put:k:1:2\n");
        client(&server, &["update", "k", "1:2", ""]);
        client(&server, &["update", "k", "", "3"]);
        assert_eq!(watch.line(), "update:k::3\n");
        client(&server, &["set", "k", "4:5"]);
        assert_eq!(watch.line(), "set:k:4:5\n");
        client(&server, &["remove", "k", "4:5"]);
        assert_eq!(watch.line(), "remove:k:4:5\n");
        client(&server, &["delete", "k"]);
        assert_eq!(watch.line(), "delete:k\n");
        watch.signal(signal);
        assert_eq!(watch.line(), "");
        assert_eq!(watch.end(), Some(0));
        assert_eq!(watch.errors(), "");
    }
}

#[test]
fn a_watch_ends_when_nobody_reads_it_any_more() {
    let server = start();
    let mut watch = watch(&server, &["watch", "k"]);
    watch.output = None;
    assert_eq!(watch.end(), Some(0));
    assert_eq!(watch.errors(), "");
}

#[test]
fn a_watch_says_when_its_server_has_gone() {
    let server = start();
    let mut watch = watch(&server, &["--no-reconnect", "watch", "--prefix", ""]);
    server.stop(std::time::Duration::ZERO);
    assert_eq!(watch.line(), "");
    assert_eq!(watch.end(), Some(2));
    let errors = watch.errors();
    assert!(errors.starts_with("error: "), "{errors}");
}

/// Ends the server, and starts it again behind the proxy.
fn restart(server: TestServer, proxy: &Proxy) -> TestServer {
    proxy.refuse(true);
    let store = server.stop(std::time::Duration::ZERO);
    let server = TestServer::start(Server::builder().store(store).build());
    proxy.set_upstream(server.address);
    proxy.refuse(false);
    server
}

#[test]
fn a_watch_goes_on_when_its_server_is_back() {
    let server = start();
    let proxy = Proxy::start(server.address);
    let address = proxy.address.to_string();
    let mut command = Command::new(example("client"));
    let mut watch = ChildProcess::start(command.args(["watch", "k", "--connect", &address]));
    wait_until("the watch has begun", || server.handle.stats().watches > 0);
    client(&server, &["put", "k", "1"]);
    assert_eq!(watch.line(), "put:k:1\n");
    let server = restart(server, &proxy);
    assert_eq!(watch.line(), ":missed:0\n");
    client(&server, &["put", "k", "2"]);
    assert_eq!(watch.line(), "put:k:2\n");
    watch.signal("-INT");
    assert_eq!(watch.end(), Some(0));
    let errors = watch.errors();
    let lines: Vec<_> = errors.lines().collect();
    let [lost, .., again, missed] = lines[..] else {
        panic!("{errors}");
    };
    assert!(
        lost.starts_with(&format!("{address}: connection lost: ")),
        "{errors}"
    );
    assert!(lost.ends_with("; reconnecting"), "{errors}");
    assert_eq!(again, format!("connected again to {address}"));
    assert_eq!(missed, "missed an unknown number of changes");
}

/// Such as a wrong certificate, which would otherwise look like a server that is still away.
#[test]
fn a_watch_says_why_its_server_is_not_back() {
    let server = start();
    let proxy = Proxy::start(server.address);
    let address = proxy.address.to_string();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]);
    command.arg(example("client"));
    let mut watch = ChildProcess::start(command.args(["watch", "k", "--connect", &address]));
    wait_until("the watch has begun", || server.handle.stats().watches > 0);
    proxy.refuse(true);
    let store = server.stop(std::time::Duration::ZERO);
    assert!(watch.line().ends_with("; reconnecting\n"));
    let mut reason = watch.line();
    assert!(reason.starts_with(&format!("{address}: ")), "{reason}");
    assert!(reason.ends_with("; trying again\n"), "{reason}");
    let server = TestServer::start(Server::builder().store(store).build());
    proxy.set_upstream(server.address);
    proxy.refuse(false);
    let mut line = watch.line();
    while line.ends_with("; trying again\n") {
        assert_ne!(line, reason);
        reason = std::mem::replace(&mut line, watch.line());
    }
    assert_eq!(line, format!("connected again to {address}\n"));
}

#[test]
fn chat_goes_on_when_its_server_is_back() {
    let server = start();
    let proxy = Proxy::start(server.address);
    let address = proxy.address.to_string();
    let chat = |name| {
        let mut command = Command::new(example("chat"));
        ChildProcess::start(command.args([name, "--connect", &address]))
    };
    let mut ann = chat("ann");
    wait_until("ann is there", || server.handle.stats().active == 2);
    let mut bob = chat("bob");
    wait_until("bob is there", || server.handle.stats().active == 4);
    bob.send("hello\n");
    assert_eq!(ann.line(), "bob: hello\n");
    let server = restart(server, &proxy);
    assert_eq!(ann.line(), "* you missed some messages\n");
    bob.send("still there?\n");
    assert_eq!(ann.line(), "bob: still there?\n");
    drop(server);
}

#[test]
fn lines_from_a_pipe_are_passed_on() {
    let server = start();
    let mut lines = ChildProcess::start(&mut command(&server, &[] as &[&str]));
    lines.send("Put:k:v\nGet:k\n");
    // The reply comes while the input is still open.
    assert_eq!(lines.line(), "k:v\n");
    lines.send("nonsense\nSync:end\n");
    lines.input = None;
    // No colours in a pipe.
    assert!(lines.line().starts_with(":error:3:unknown:"));
    assert_eq!(lines.line(), ":sync:0:end\n");
    assert_eq!(lines.line(), "");
    assert_eq!(lines.end(), Some(2));
    assert!(lines.errors().ends_with("the server sent 1 error\n"));
}

#[test]
fn lines_fail_where_the_server_goes_first() {
    let server = start();
    let mut lines = ChildProcess::start(&mut command(&server, &[] as &[&str]));
    lines.send("Put:k:v\nGet:k\n");
    assert_eq!(lines.line(), "k:v\n");
    server.stop(std::time::Duration::ZERO);
    assert_eq!(lines.end(), Some(2));
    assert!(lines.errors().starts_with("error: "));
}

#[test]
fn chat_tells_a_slow_reader_what_it_missed() {
    let server = start();
    let chat = |name: &str| {
        let mut command = Command::new(example("chat"));
        let address = server.address.to_string();
        ChildProcess::start(command.args([name, "--connect", &address]))
    };
    let mut ann = chat("ann");
    ann.send("good morning\n");
    wait_until("it is said", || server.handle.stats().values == 1);
    let mut bob = chat("bob");
    assert_eq!(bob.line(), "ann: good morning\n");
    bob.send("hello\n");
    assert_eq!(ann.line(), "bob: hello\n");

    bob.signal("-STOP");
    let long = format!("Put:lobby:eve: {}\n", "x".repeat(60_000));
    let mut eve = server.connect();
    wait_until("bob misses something", || {
        eve.send(long.repeat(20));
        eve.sync();
        // Ann is never kept waiting, nor does she miss anything.
        assert!((0..20).all(|_| ann.line().starts_with("eve: xxx")));
        server.handle.stats().missed > 0
    });
    bob.signal("-CONT");
    wait_until("bob is told", || bob.line().starts_with("* you missed "));
}

/// Runs a shell's line, in which CLIENT and the like stand for the programs; gives the exit code.
fn shell(server: &TestServer, line: &str) -> i32 {
    let mut line = line.replace("ADDRESS", &server.address.to_string());
    for name in ["client", "chat", "squarer", "top"] {
        let program = example(name);
        line = line.replace(&name.to_uppercase(), program.to_str().unwrap());
    }
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    output.status.code().unwrap()
}

#[test]
fn the_exit_code_does_not_depend_on_whether_anybody_can_be_told_why() {
    let server = start();
    client(&server, &["put", "k", "v"]);
    for errors in ["", "2>/dev/full", "2>&-", "2>&1 >/dev/full"] {
        for (line, code) in [
            ("CLIENT put k v --connect ADDRESS", 0),
            ("CLIENT get none --connect ADDRESS", 1),
            ("CLIENT put a:b c --connect ADDRESS", 2),
            ("CLIENT explode", 2),
            ("CLIENT get k --connect 127.0.0.1:1", 2),
            ("echo nonsense | CLIENT --connect ADDRESS", 2),
            ("CLIENT get k --connect ADDRESS >/dev/full", 2),
            ("CLIENT get k --connect ADDRESS >&-", 0),
            ("CLIENT --help >/dev/full", 2),
            ("CLIENT --version >/dev/full", 2),
            ("TOP >/dev/null", 2),
            ("TOP --explode", 2),
            ("CHAT ann --connect 127.0.0.1:1", 1),
            ("CHAT", 2),
            ("printf 'x\\n\\377\\n' | SQUARER", 0),
            ("echo 2 | SQUARER >/dev/full", 1),
        ] {
            let line = format!("{{ {line}; }} {errors}");
            assert_eq!(shell(&server, &line), code, "{line}");
        }
    }
}

#[test]
fn the_system_is_to_ask_within_a_minute_whether_the_server_is_still_there() {
    let server = start();
    let _watch = watch(&server, &["watch", "k"]);
    let port = format!(":{:04X}", server.address.port());
    wait_until("the keepalive timer runs", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut sockets = table.lines().map(|line| line.split_whitespace());
        // The client's end is the one whose peer is the server.
        let mut ours = sockets.find(|fields| {
            let peer = fields.clone().nth(2);
            peer.is_some_and(|peer| peer.ends_with(&port) && peer != "00000000:0000")
        });
        let timer = ours
            .as_mut()
            .and_then(|fields| fields.nth(5)?.split_once(':'));
        timer.is_some_and(|(kind, ticks)| {
            let ticks = u64::from_str_radix(ticks, 16).unwrap();
            kind == "02" && (3_000..=6_100).contains(&ticks)
        })
    });
}
