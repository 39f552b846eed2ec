//! The example client, top and chat at a terminal.

use std::os::unix::process::ExitStatusExt as _;

use keywire::Server;

use crate::common::{
    TestServer,
    proxy::Proxy,
    terminal::{Has, Terminal},
    tools::{client, expect},
    wait_until,
};

fn start() -> TestServer {
    TestServer::start(Server::new())
}

/// A tool of this server at a terminal.
fn tool(server: &TestServer, has: Has, program: &str, arguments: &[&str]) -> Terminal {
    let address = server.address.to_string();
    let arguments = [arguments, &["--connect", &address]].concat();
    Terminal::start(has, program, &arguments)
}

/// What commands to the terminal leave of a text.
fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut rest = shown.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => {
                if rest.next() == Some('[') {
                    let _ = rest.find(char::is_ascii_alphabetic);
                }
            }
            '\r' => {}
            c => text.push(c),
        }
    }
    text
}

/// The lines that begin with one of `k`'s values, in the order in which they are shown.
fn values(shown: &str) -> Vec<usize> {
    let text = plain(shown);
    let lines = text.lines().filter_map(|line| line.strip_prefix("k:"));
    lines.map(|number| number.parse().unwrap()).collect()
}

#[test]
fn all_replies_are_shown_also_if_the_input_ends_right_behind_the_command() {
    const VALUES: usize = 400;
    let server = start();
    let puts = (0..VALUES).map(|number| format!("Put:k:{number}\n"));
    server.connect().end_with(puts.collect::<String>());
    for _ in 0..40 {
        let mut client = tool(&server, Has::All, "client", &[]);
        client.await_shown("> ");
        client.press("Get:k\r");
        client.press("\x04");
        assert_eq!(client.end(), Some(0), "{}", client.shown());
        let expected: Vec<_> = (0..VALUES).collect();
        assert_eq!(values(&client.shown()), expected, "{}", client.shown());
        assert!(client.is_cooked());
    }
}

#[test]
fn replies_to_lines_typed_ahead_are_shown_in_order() {
    const LINES: usize = 200;
    let server = start();
    for _ in 0..10 {
        let mut client = tool(&server, Has::All, "client", &[]);
        client.await_shown("> ");
        client.press("Delete:k\r");
        for number in 0..LINES {
            let before = number.max(1) - 1;
            client.press(&format!("Update:k:{before}:{number}\rGet:k\r"));
        }
        client.press("\x04");
        assert_eq!(client.end(), Some(0), "{}", client.shown());
        let expected: Vec<_> = (0..LINES).collect();
        assert_eq!(values(&client.shown()), expected, "{}", client.shown());
    }
}

#[test]
fn what_comes_while_a_line_is_typed_is_shown_above_it() {
    let server = start();
    let mut client = tool(&server, Has::All, "client", &[]);
    client.await_shown("> ");
    client.press("Watch:k\r");
    client.await_shown(":watch:k");
    client.press("Put:k:mine");
    client.await_shown("Put:k:mine");
    server.connect().end_with("Put:k:other\n");
    client.await_shown(":put:k:other\r\n> Put:k:mine");
    client.press("\r");
    client.await_shown(":put:k:mine\r\n");
    client.press("\x04");
    assert_eq!(client.end(), Some(0));
    assert!(client.is_cooked());
}

#[test]
fn what_comes_is_shown_also_without_colours() {
    let server = start();
    let address = server.address.to_string();
    let variables = [("NO_COLOR", Some("1"))];
    let arguments = ["--connect", &address];
    let mut client = Terminal::start_with(Has::All, "client", &arguments, &variables);
    client.await_shown("> ");
    client.press("Watch:k\rPut:k:mine");
    client.await_shown("Put:k:mine");
    server.connect().end_with("Put:k:other\n");
    client.await_shown(":put:k:other\r\n> Put:k:mine");
}

#[test]
fn what_others_say_appears_above_the_line_that_is_typed() {
    let server = start();
    server.connect().end_with("Put:lobby:eve: before\n");
    let mut ann = tool(&server, Has::All, "chat", &["ann"]);
    ann.await_shown("eve: before\r\n");
    ann.press("half a li");
    ann.await_shown("half a li");
    server.connect().end_with("Put:lobby:bob: hello\n");
    ann.await_shown("bob: hello\r\nann: half a li");
    ann.press("ne\r");
    wait_until("it is said", || server.handle.stats().values == 3);
    assert!(!ann.is_cooked());
    ann.press("\x04");
    assert_eq!(ann.end(), Some(0));
    assert!(ann.is_cooked());
    // What is typed stands there once.
    assert_eq!(plain(&ann.shown()).matches("half a line\n").count(), 1);
    let mut other = server.connect();
    other.send("Get:lobby\n");
    assert_eq!(other.texts(3)[2], "lobby:ann: half a line");
}

#[test]
fn chat_puts_the_terminal_right_when_its_server_goes() {
    let server = start();
    let mut ann = tool(&server, Has::All, "chat", &["ann", "--no-reconnect"]);
    ann.await_shown("ann: ");
    ann.press("half");
    ann.await_shown("half");
    server.stop(std::time::Duration::ZERO);
    assert_eq!(ann.end(), Some(1));
    assert!(ann.is_cooked());
    // On a line of its own.
    assert!(ann.shown().contains("\nerror: "), "{}", ann.shown());
}

#[test]
fn bytes_of_others_do_not_steer_a_terminal() {
    let server = start();
    let steering = "\x1b]52;c;eA==\x07\x1b[2J\u{9b}2J\x7f\u{202e}ä\t.";
    let shown = "\\x1b]52;c;eA==\\x07\\x1b[2J\\u{9b}2J\\x7f\\u{202e}ä\t.";
    server.connect().end_with(format!("Put:k:{steering}\n"));
    // Into a pipe they go as they are.
    expect(client(&server, &["get", "k"]), 0, format!("{steering}\n"));

    let mut get = tool(&server, Has::All, "client", &["get", "k"]);
    assert_eq!(get.end(), Some(0));
    assert_eq!(
        get.shown().replace("        ", "\t"),
        format!("{shown}\r\n")
    );

    let mut lines = tool(&server, Has::All, "client", &[]);
    lines.await_shown("> ");
    lines.press("Get:k\r\x04");
    assert_eq!(lines.end(), Some(0));
    assert!(
        plain(&lines.shown()).contains(&format!("k:{shown}\n")),
        "{}",
        lines.shown()
    );

    let watch = tool(&server, Has::All, "client", &["watch", "k"]);
    watch.await_shown("watching");
    server.connect().end_with(format!("Put:k:{steering}\n"));
    watch.await_shown(&format!("put:k:{shown}\r\n"));

    let mut chat = tool(&server, Has::All, "chat", &["ann", "--room", "k"]);
    chat.await_shown(&format!("{shown}\r\n"));
    chat.press("\x04");
    assert_eq!(chat.end(), Some(0));
}

/// A server whose words are what it is given.
fn answering(words: &'static str) -> (std::net::SocketAddr, std::thread::JoinHandle<()>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 100]).unwrap(), 0);
        stream.write_all(words.as_bytes()).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    (address, serving)
}

#[test]
fn the_words_of_a_refusal_do_not_steer_a_terminal() {
    for (program, arguments) in [("client", &["put", "k", "v"][..]), ("chat", &["ann"])] {
        let (address, serving) = answering(":error:0:full:no \x1b]0;title\x07\u{85}\n");
        let address = address.to_string();
        let arguments = [arguments, &["--connect", &address]].concat();
        let mut tool = Terminal::start(Has::All, program, &arguments);
        assert!(matches!(tool.end(), Some(1 | 2)));
        let shown = tool.shown();
        assert!(shown.contains("no \\x1b]0;title\\x07\\u{85}"), "{shown:?}");
        assert!(!shown.contains('\x1b'), "{shown:?}");
        serving.join().unwrap();
    }
}

#[test]
fn top_shows_what_keeps_the_values() {
    let server = start();
    server.connect().end_with("Set:k:v\nRemove:k:v\n");
    let mut top = tool(&server, Has::All, "top", &[]);
    top.await_shown("memory");
    top.await_shown("remove");
    top.signal("-TERM");
    assert_eq!(top.end(), Some(0));
}

#[test]
fn top_ends_on_every_signal_and_puts_the_terminal_right() {
    let server = start();
    for has in [Has::All, Has::NoInput, Has::NoControl] {
        for signal in ["-INT", "-TERM", "-HUP"] {
            let mut top = tool(&server, has, "top", &[]);
            // Without a controlling terminal there are no keys for it, but a screen there is.
            top.await_shown("commands/s");
            assert!(!top.is_cooked());
            top.signal(signal);
            assert_eq!(top.end(), Some(0), "{has:?} {signal}");
            assert!(top.is_cooked(), "{has:?} {signal}");
            assert!(top.shown().contains("\x1b[?1049l"), "{has:?} {signal}");
        }
    }
}

#[test]
fn every_tool_ends_when_its_terminal_is_gone() {
    let server = start();
    server.connect().end_with("Put:lobby:welcome\n");
    for has in [Has::All, Has::NoInput, Has::NoControl] {
        for (program, arguments, shows, codes) in [
            ("top", &[][..], "commands/s", &[Some(0)][..]),
            ("client", &[], "> ", &[Some(2)]),
            ("client", &["watch", "k"], "watching", &[Some(0)]),
            // If it edits nothing, it leaves SIGHUP to the system. Its input may end or fail first.
            ("chat", &["ann"], "welcome", &[None, Some(0), Some(1)]),
        ] {
            if matches!(has, Has::NoInput) && shows == "> " {
                // No input, so it has ended already.
                continue;
            }
            let mut tool = tool(&server, has, program, arguments);
            tool.await_shown(shows);
            tool.hang_up();
            let code = tool.end();
            let status = tool.child.wait().unwrap();
            assert!(
                codes.contains(&code),
                "{has:?} {program} {arguments:?}: {status}"
            );
            let signal = status.signal();
            assert!(
                matches!(signal, None | Some(1)),
                "{has:?} {program}: {status}"
            );
        }
    }
    wait_until("nobody is left", || server.handle.stats().active == 0);
}

#[test]
fn ctrl_c_ends_the_wait_for_the_last_replies() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Terminal::start(Has::All, "client", &["--connect", &address]);
    client.await_shown("> ");
    client.press("Get:k\r\x04");
    wait_until("the input has ended", || client.is_cooked());
    client.press("\x03");
    assert_eq!(client.end(), Some(2));
    assert!(client.is_cooked());
}

#[test]
fn signals_end_a_tool_also_if_its_terminal_takes_nothing() {
    let server = start();
    for (program, arguments, shows, code) in [
        ("top", &[][..], "commands/s", 0),
        ("client", &[], "> ", 2),
        ("client", &["watch", "k"], "watching", 0),
        ("chat", &["ann"], "ann: ", 1),
    ] {
        let mut tool = tool(&server, Has::All, program, arguments);
        tool.await_shown(shows);
        tool.stop_output();
        tool.signal("-TERM");
        assert_eq!(tool.end(), Some(code), "{program}");
        assert!(tool.is_cooked(), "{program}");
    }
}

#[test]
fn lines_that_are_typed_go_to_the_server_that_is_back() {
    let server = start();
    let proxy = Proxy::start(server.address);
    let address = proxy.address.to_string();
    let mut client = Terminal::start(Has::All, "client", &["--connect", &address]);
    client.await_shown("> ");
    client.press("Put:k:1\rGet:k\r");
    client.await_shown("k:1");
    proxy.refuse(true);
    let store = server.stop(std::time::Duration::ZERO);
    client.await_shown("reconnecting");
    // Typed ahead, while there is no server.
    client.press("Put:k:2\rGet:k\r");
    let server = TestServer::start(Server::builder().store(store).build());
    proxy.set_upstream(server.address);
    proxy.refuse(false);
    client.await_shown("connected again to ");
    client.await_shown("k:2");
    client.press("\x04");
    assert_eq!(client.end(), Some(0));
}

#[test]
fn what_becomes_of_the_connection_is_shown_above_the_line_that_is_typed() {
    for (program, arguments, prompt) in [("client", &[][..], "> "), ("chat", &["ann"], "ann: ")] {
        let server = start();
        let proxy = Proxy::start(server.address);
        let address = proxy.address.to_string();
        let arguments = [arguments, &["--connect", &address]].concat();
        let mut tool = Terminal::start(Has::All, program, &arguments);
        tool.await_shown(prompt);
        tool.press("Put:k:h");
        tool.await_shown("Put:k:h");
        proxy.refuse(true);
        let store = server.stop(std::time::Duration::ZERO);
        tool.await_shown(&format!("; reconnecting\r\n{prompt}Put:k:h"));
        tool.press("a");
        wait_until("the key is shown", || tool.shown().ends_with('a'));
        let server = TestServer::start(Server::builder().store(store).build());
        proxy.set_upstream(server.address);
        proxy.refuse(false);
        tool.await_shown(&format!(
            "\r\nconnected again to {address}\r\n{prompt}Put:k:ha"
        ));
        tool.press("lf\r");
        wait_until("the line has arrived", || server.handle.stats().values == 1);
        tool.press("\x04");
        assert_eq!(tool.end(), Some(0), "{}", tool.shown());
    }
}

#[test]
fn what_was_not_said_in_a_chat_is_shown_above_the_line_that_is_typed() {
    let server = TestServer::start(Server::builder().max_line(64).build());
    let proxy = Proxy::start(server.address);
    let address = proxy.address.to_string();
    let mut ann = Terminal::start(Has::All, "chat", &["ann", "--connect", &address]);
    ann.await_shown("ann: ");
    proxy.hold_replies();
    ann.press(&format!("{}\rhalf", "long ".repeat(20)));
    ann.await_shown("half");
    proxy.release();
    ann.await_shown("* not said: long long ");
    ann.await_shown(")\r\nann: half");
    ann.press(" a line\r");
    wait_until("the line has arrived", || server.handle.stats().values == 1);
    ann.press("\x04");
    assert_eq!(ann.end(), Some(0));
}

#[test]
fn who_does_not_wait_for_the_server_may_leave() {
    let server = start();
    let mut client = tool(&server, Has::All, "client", &[]);
    client.await_shown("> ");
    server.stop(std::time::Duration::ZERO);
    client.await_shown("reconnecting");
    client.press("\x04");
    assert_eq!(client.end(), Some(2));
    let shown = plain(&client.shown());
    assert!(shown.contains("the connection was lost"), "{shown}");
}
