//! The example client's commands over a prefix.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use crate::{
    client::start,
    common::{
        DEADLINE, example,
        tools::{client, expect},
    },
};

/// Serves one client: the line that it sent, and the answer to that, in which TOKEN stands for that of
/// the `Sync` behind it.
fn answer(replies: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let (line, fence) = (lines.next().unwrap(), lines.next().unwrap().unwrap());
        let replies = replies.replace("TOKEN", fence.strip_prefix("Sync:").unwrap());
        stream.write_all(replies.as_bytes()).unwrap();
        line.unwrap()
    });
    (address, serving)
}

fn run(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(example("client"));
    command.args(["--connect", &address.to_string()]);
    command.args(arguments);
    command.output().unwrap()
}

#[test]
fn a_list_is_set_and_its_values_removed() {
    let server = start();
    expect(client(&server, &["put", "user", "alice"]), 0, "");
    expect(client(&server, &["set", "user", "-h:b"]), 0, "");
    expect(client(&server, &["put", "user", "carol"]), 0, "");
    expect(client(&server, &["get", "user"]), 0, "-h:b\ncarol\n");
    expect(client(&server, &["remove", "user", "-h:b"]), 0, "");
    expect(client(&server, &["remove", "user", "nobody"]), 0, "");
    expect(client(&server, &["get", "user"]), 0, "carol\n");
    expect(client(&server, &["remove", "user", "carol"]), 0, "");
    expect(client(&server, &["get", "user"]), 1, "");
}

#[test]
fn what_comes_of_a_prefix_is_printed_and_its_end_is_the_exit_code() {
    let cases = [
        (
            &["keys"][..],
            "Keys:",
            "a:1\nb:2\n:sync:0:TOKEN\n",
            0,
            "a:1\nb:2\n",
            "",
        ),
        (
            &["keys", "us"],
            "Keys:us",
            "user:1\n:sync:0:TOKEN\n",
            0,
            "user:1\n",
            "",
        ),
        (&["keys", "us"], "Keys:us", ":sync:0:TOKEN\n", 1, "", ""),
        (
            &["dump"],
            "GetPrefix:",
            "a:1:2\na:\nb:3\n:sync:0:TOKEN\n",
            0,
            "a:1:2\na:\nb:3\n",
            "",
        ),
        (&["dump", ""], "GetPrefix:", ":sync:0:TOKEN\n", 0, "", ""),
        (
            &["dump", "--", "-h"],
            "GetPrefix:-h",
            "-h:1\n:sync:0:TOKEN\n",
            0,
            "-h:1\n",
            "",
        ),
        // What came before the failure is printed.
        (
            &["dump", "k"],
            "GetPrefix:k",
            "k:1\nkk:2\n:error:1:too-long:the reply is too long\n:sync:0:TOKEN\n",
            2,
            "k:1\nkk:2\n",
            "too-long",
        ),
        (
            &["dump", "k"],
            "GetPrefix:k",
            "k:1\n:sync:3:TOKEN\n",
            2,
            "k:1\n",
            "3 lines",
        ),
        (
            &["keys"],
            "Keys:",
            "k:1\n",
            2,
            "k:1\n",
            "the connection is over",
        ),
    ];
    for (arguments, sent, replies, code, printed, reason) in cases {
        let (address, serving) = answer(replies);
        let errors = expect(run(address, arguments), code, printed);
        assert!(errors.contains(reason), "{arguments:?}: {errors}");
        assert_eq!(serving.join().unwrap(), sent);
    }
    let errors = expect(run(([127, 0, 0, 1], 1).into(), &["keys", "a:b"]), 2, "");
    assert!(errors.contains("refused"), "{errors}");
    // Options behind an argument that is left out, or behind one that is there.
    for arguments in [&["keys"][..], &["keys", "k"]] {
        let (address, serving) = answer("k:1\n:sync:0:TOKEN\n");
        let mut command = Command::new(example("client"));
        let command = command
            .args(arguments)
            .args(["--connect", &address.to_string()]);
        expect(command.output().unwrap(), 0, "k:1\n");
        serving.join().unwrap();
    }
    let help = Command::new(example("client"))
        .args(["dump", "--help"])
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains("[PREFIX]") && help.contains("Put:"), "{help}");
}

#[test]
fn a_dump_restores_a_server() {
    let (server, other) = (start(), start());
    for (key, value) in [
        ("user.a", "1"),
        ("user.a", "x:y"),
        ("user.b", ""),
        ("z", "3"),
    ] {
        expect(client(&server, &["put", key, value]), 0, "");
    }
    expect(client(&server, &["keys", "z"]), 0, "z:1\n");
    expect(client(&server, &["keys", "nobody"]), 1, "");
    let script = format!(
        "{0} dump user. --connect {1} | sed 's/^/Put:/' | {0} --connect {2}",
        example("client").display(),
        server.address,
        other.address
    );
    let restored = Command::new("sh").args(["-c", &script]).output().unwrap();
    expect(restored, 0, "");
    expect(client(&other, &["get", "user.a"]), 0, "1\nx:y\n");
    expect(client(&other, &["get", "user.b"]), 0, "\n");
    expect(client(&other, &["get", "z"]), 1, "");
}

#[test]
fn a_dump_is_loaded_as_often_as_one_likes() {
    let server = start();
    let load = |lines: &str| {
        let mut command = Command::new(example("client"));
        command.args(["--connect", &server.address.to_string(), "load"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let mut loading = command.spawn().unwrap();
        let mut input = loading.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        loading.wait_with_output().unwrap()
    };
    for _ in 0..2 {
        expect(load("a:1\na:2\nb::\na-longer-key:"), 0, "");
        expect(client(&server, &["get", "a"]), 0, "1\n2\n");
        expect(client(&server, &["get", "b"]), 0, ":\n");
        expect(client(&server, &["get", "a-longer-key"]), 0, "\n");
    }
    for lines in ["no colon\n", ":no key\n"] {
        let refused = load(lines);
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(said, "error: line 1 is no KEY:VALUE\n");
    }
}
