//! The example server and client as processes, the way a person meets them.

use std::{
    io::{BufRead as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, ExitStatus, Stdio},
};

use crate::common::{
    example,
    server_process::{ServerProcess, find_line},
    wait_until,
};

fn client(address: &str, input: &str) -> (ExitStatus, String) {
    client_with(address, &[], input)
}

fn client_with(address: &str, arguments: &[&str], input: &str) -> (ExitStatus, String) {
    let mut child = Command::new(example("client"))
        .args(["--connect", address])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    (output.status, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn each_signal_shuts_down_gracefully() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let mut command = Command::new(example("server"));
        let command = command.args(["--listen", "127.0.0.1:0", "--threads", "2"]);
        let (mut server, mut log) = ServerProcess::with_log("info", command);
        let mut idle = server.connect();
        idle.sync();
        server.signal(signal);
        let last = idle.line().expect("a last line");
        assert_eq!(last, b":error:0:closing:the server is shutting down");
        assert_eq!(idle.line(), None, "the end of the stream, not a reset");
        let (status, printed) = server.wait();
        assert!(status.success());
        assert_eq!(printed, "");
        find_line(&mut log, &format!("signal=\"SIG{}\"", &signal[1..]));
        let last = find_line(&mut log, "shut down");
        let figures = " INFO keywire: shut down clients=1 commands=1 errors=1 lines_lost=0 ";
        assert!(last.contains(figures), "{last}");
        assert_eq!(std::io::read_to_string(log).unwrap(), "");
    }
}

#[test]
fn a_second_signal_shuts_down_at_once() {
    let mut command = Command::new(example("server"));
    let command = command.args(["--listen", "127.0.0.1:0", "--overflow", "wait"]);
    let (mut server, mut log) = ServerProcess::with_log("info", command);
    let mut client = server.connect();
    client.send(format!("Put:k:{}\n", "x".repeat(60_000)));
    client.sync();
    client.send("Get:k\n".repeat(1000));
    client.stream().peek(&mut [0]).unwrap(); // it has begun to answer
    server.signal("-TERM");
    find_line(&mut log, "once more to do it at once");
    // The client does not read, so the first signal alone would take the whole grace time.
    server.signal("-TERM");
    let (status, _) = server.wait();
    assert!(status.success());
    client.await_hang_up();
}

#[test]
fn a_terminal_that_goes_away_is_no_reason_to_hurry() {
    let mut command = Command::new(example("server"));
    let command = command.args(["--listen", "127.0.0.1:0", "--overflow", "wait"]);
    let (mut server, mut log) = ServerProcess::with_log("info", command);
    let mut client = server.connect();
    client.send(format!("Put:k:{}\n", "x".repeat(60_000)));
    client.sync();
    client.send("Get:k\n".repeat(300));
    client.stream().peek(&mut [0]).unwrap(); // it has begun to answer
    server.signal("-HUP");
    find_line(&mut log, "once more to do it at once");
    // The shell and the system may both send it, so a second one means nothing.
    server.signal("-HUP");
    let lines = std::iter::from_fn(|| client.line());
    assert_eq!(lines.filter(|line| line.starts_with(b"k:")).count(), 300);
    assert!(server.wait().0.success());
}

#[test]
fn under_nohup_it_goes_on_when_its_terminal_goes_away() {
    let mut command = Command::new("sh");
    let script = "trap '' HUP; exec \"$0\" --listen 127.0.0.1:0";
    let command = command.arg("-c").arg(script).arg(example("server"));
    let (mut server, mut log) = ServerProcess::with_log("info", command);
    server.signal("-HUP");
    for _ in 0..10 {
        server.connect().sync();
    }
    server.signal("-TERM");
    assert!(server.wait().0.success());
    find_line(&mut log, "shut down clients=10 ");
}

#[test]
fn the_client_ends_when_every_reply_is_in() {
    let server = ServerProcess::start(&["--listen", "127.0.0.1:0"]);
    let gets = "Get:k\n".repeat(50_000);
    let (status, output) = client(&server.address, &format!("Put:k:v\n{gets}nonsense\n"));
    assert_eq!(status.code(), Some(2)); // one was refused
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 50_001);
    assert!(lines[..50_000].iter().all(|line| *line == "k:v"));
    assert!(lines[50_000].starts_with(":error:50002:unknown:"));
}

#[test]
fn a_unix_socket_is_served_and_removed() {
    let path = std::env::temp_dir().join(format!("keywire-process-{}.sock", std::process::id()));
    let address = format!("unix:{}", path.display());
    // What a server that was killed leaves behind is no obstacle.
    let mut killed = ServerProcess::start(&["--listen", &address]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(path.exists());
    // Nobody else may connect, whatever the files of this process are like.
    let mut command = Command::new("sh");
    let script = "umask 0; exec \"$0\" --listen \"$1\"";
    let command = command.args(["-c", script]).arg(example("server"));
    let mut server = ServerProcess::spawn(command.arg(&address));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let (status, output) = client(&address, "Put:k:v\nGet:k\n");
    assert!(status.success());
    assert_eq!(output, "k:v\n");
    // One that lives is.
    let second = Command::new(example("server"))
        .args(["--listen", &address])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("in use"));
    server.signal("-TERM");
    server.wait();
    assert!(!path.exists());
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let path = std::env::temp_dir().join(format!("keywire-file-{}", std::process::id()));
    std::fs::write(&path, "precious").unwrap();
    let address = format!("unix:{}", path.display());
    let mut server = Command::new(example("server"));
    let output = server.args(["--listen", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();

    // And so is the socket of another server that has taken the place.
    let mut first = ServerProcess::start(&["--listen", &address]);
    std::fs::remove_file(&path).unwrap();
    let mut second = ServerProcess::start(&["--listen", &address]);
    first.signal("-TERM");
    first.wait();
    let (status, _) = client(&address, "Put:k:v\n");
    assert!(status.success());
    second.signal("-TERM");
    second.wait();
    assert!(!path.exists());
}

#[test]
fn only_those_who_know_the_secret_come_in() {
    let path = std::env::temp_dir().join(format!("keywire-process-{}.secret", std::process::id()));
    std::fs::write(&path, "open:sesame\n").unwrap();
    let file = path.to_str().unwrap();
    let server = ServerProcess::start(&["--listen", "127.0.0.1:0", "--secret-file", file]);
    let run = |arguments: &[&str]| {
        let mut client = Command::new(example("client"));
        let client = client.args(["--connect", &server.address]).args(arguments);
        client.output().unwrap()
    };
    let stranger = run(&["get", "k"]);
    assert_eq!(stranger.status.code(), Some(2));
    let words = String::from_utf8(stranger.stderr).unwrap();
    assert!(
        words.contains("(unauthorized): first say Auth:secret"),
        "{words}"
    );
    assert!(
        run(&["--secret-file", file, "put", "k", "v"])
            .status
            .success()
    );
    assert_eq!(run(&["get", "k", "--secret-file", file]).stdout, b"v\n");
    let (status, output) = client_with(&server.address, &["--secret-file", file], "Get:k\nno\n");
    assert_eq!(status.code(), Some(2));
    assert!(output.starts_with("k:v\n:error:3:unknown:"), "{output}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn without_a_secret_it_listens_to_this_machine_only() {
    let server = |arguments: &[&str]| {
        let mut server = Command::new(example("server"));
        server.args(["--listen", "0.0.0.0:0"]).args(arguments);
        server
    };
    let refused = server(&[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(words.contains("--secret-file, or --open"), "{words}");
    ServerProcess::spawn(&mut server(&["--open"]));
    let path = std::env::temp_dir().join(format!("keywire-open-{}.secret", std::process::id()));
    std::fs::write(&path, "open:sesame").unwrap();
    ServerProcess::spawn(&mut server(&["--secret-file", path.to_str().unwrap()]));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn wrong_options_are_explained() {
    for arguments in [
        &["--outbox-lines", "0"][..],
        &["--overflow", "explode"],
        &["--listen", "nowhere"],
        &["--stats", "-1"],
        &["--listen", "::1:9999"],
        &["--listen", "[]:9999"],
        &["--listen", "localhost:65536"],
        &["--listen", "unix:"],
    ] {
        let output = Command::new(example("server"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .starts_with("error: ")
        );
    }
}

/// With it, the tests of `examples/tls` have the word.
#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_the_options_for_it_tell_how_to_build_with_it() {
    let files = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let output = Command::new(example("server"))
        .args(files)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--features tls"), "{errors}");
    let mut client = Command::new(example("client"));
    let output = client
        .args(["get", "k", "--tls-ca", "ca.pem"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--features tls"), "{errors}");
}

/// With it, the tests of `tests/metrics` have the word.
#[cfg(not(feature = "metrics"))]
#[test]
fn without_metrics_the_option_for_them_tells_how_to_build_with_them() {
    let mut command = Command::new(example("server"));
    let command = command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let (code, words) = crate::common::server_process::refused(command);
    assert_eq!(code, 1);
    assert!(words.contains("--features metrics"), "{words}");
}

#[test]
fn stats_are_printed_while_it_runs() {
    let mut server = ServerProcess::start(&["--listen", "127.0.0.1:0", "--stats", "0.05"]);
    let mut client = server.connect();
    client.sync();
    let mut line = String::new();
    wait_until("the client is counted", || {
        line.clear();
        server.output.read_line(&mut line).unwrap();
        line.starts_with("active 1  gone 0  commands ")
    });
}
