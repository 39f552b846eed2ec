//! The log of the example server: what is in it, and what is never in it.

use std::{
    fs,
    io::{BufRead as _, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::common::{
    example,
    server_process::{ServerProcess, refused},
    wait_until,
};

/// The fields that every line has.
#[track_caller]
pub(crate) fn check_fields(line: &Value) {
    let time = line["timestamp"].as_str().unwrap();
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{time}");
    assert_eq!(line["target"], "keywire", "{line}");
    assert!(line["level"].is_string(), "{line}");
    assert!(line["message"].is_string(), "{line}");
}

fn server(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("server"));
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    command
}

#[test]
fn a_log_of_json_has_an_object_a_line_from_the_start_to_the_end() {
    let arguments = [
        "--log-format",
        "json",
        "--max-clients",
        "1",
        "--max-line=1K",
    ];
    let (mut server, mut log) = ServerProcess::with_log("debug", &mut server(&arguments));
    let mut client = server.connect();
    client.sync();
    let mut refused = server.connect();
    refused.text();
    server.signal("-TERM");
    while client.line().is_some() {}
    assert!(server.wait().0.success());
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.iter().for_each(check_fields);
    let find = |message: &str| {
        let mut lines = lines.iter();
        lines
            .find(|line| line["message"] == message)
            .expect(message)
    };
    let first = find("started");
    assert_eq!(first, &lines[0]);
    assert_eq!(first["level"], "INFO");
    let version = first["version"].as_str().unwrap();
    assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{version}");
    assert_eq!(first["listen"], server.address);
    assert_eq!(first["store"], "memory");
    assert_eq!(first["limits"], "max-line=1K max-clients=1");
    assert_eq!(find("client connected")["address"], "127.0.0.1");
    let full = "connection refused: the server has as many clients as it may";
    assert_eq!(find(full)["level"], "WARN");
    let signal = "signal: the server shuts down; once more to do it at once";
    assert_eq!(find(signal)["signal"], "SIGTERM");
    let last = find("shut down");
    assert_eq!(Some(last), lines.last());
    for (name, number) in [("clients", 1), ("commands", 1), ("lines_lost", 0)] {
        assert_eq!(last[name], number, "{last}");
    }
    assert!(last["uptime_seconds"].is_u64(), "{last}");
}

#[test]
fn an_error_that_ends_it_is_json_too_and_is_said_if_the_log_is_off() {
    let run = |log: &str| {
        let mut command = Command::new(example("server"));
        command.args(["--listen", "unix:/nowhere/at/all", "--log-format", "json"]);
        let output = command.args(["--log", log]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let line: Value = serde_json::from_str(&run("info")).unwrap();
    check_fields(&line);
    assert_eq!(line["level"], "ERROR");
    assert!(
        line["message"]
            .as_str()
            .unwrap()
            .contains("/nowhere/at/all")
    );
    let line = run("off");
    assert!(line.starts_with("error: can't listen"), "{line}");
}

/// A misspelt level would be the name of a target, and nothing would be logged.
#[test]
fn a_filter_that_is_none_is_a_wrong_option() {
    for filter in [
        "inof",
        "keywire=loud",
        "other=info",
        "",
        ",",
        "keywire[",
        "a=b=c",
    ] {
        let (code, words) = refused(&mut server(&["--log", filter]));
        assert_eq!(code, 2, "{words}");
        let first = words.lines().next().unwrap();
        assert!(first.contains("--log <LEVEL>"), "{words}");
    }
    for filter in ["off", "WARN", "keywire=trace", "off,keywire=info"] {
        ServerProcess::spawn(&mut server(&["--log", filter]))
            .connect()
            .sync();
    }
}

/// Everything that a client says stays out of the log, and so do the secret and the words that are wrong.
#[test]
fn no_key_no_value_and_no_secret_is_ever_in_it() {
    let file = std::env::temp_dir().join(format!("keywire-logs-{}.secret", std::process::id()));
    fs::write(&file, "hush-secret").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    for format in ["text", "json"] {
        let mut command = server(&["--secret-file", file.to_str().unwrap()]);
        command.args(["--log-format", format, "--overflow", "disconnect"]);
        command.args([
            "--outbox-bytes",
            "1K",
            "--stall-timeout",
            "0.001",
            "--stats",
            "0.01",
        ]);
        command.args(["--max-line", "1K", "--max-values", "3000"]);
        let (mut server, mut log) = ServerProcess::with_log("trace", &mut command);
        let mut wrong = server.connect();
        wrong.send("Auth:hush-wrong\nPut:hush-key:hush-value\nAuth:hush-second\nhush-word\n");
        while wrong.line().is_some() {}
        let mut client = server.connect();
        client.send(
            "Auth:hush-secret\nWatch:hush-key\nPut:hush-key:hush-value\nhush-word:hush-value\n",
        );
        client.send("Get:hush-key\nKeys:hush\nSync:hush-token\n");
        while client
            .line()
            .is_some_and(|line| line != b":sync:0:hush-token")
        {}
        client.send(format!("Put:hush-key:{}\n", "hush-value".repeat(1000)));
        assert!(client.text().contains(":too-long:"));
        // One that does not read is disconnected.
        let mut deaf = server.connect();
        deaf.send("Auth:hush-secret\n");
        let put = format!("Put:hush-key:{}\n", "hush-value".repeat(90));
        deaf.send(put.repeat(2000));
        let _ = deaf
            .stream()
            .write_all("Get:hush-key\n".repeat(100).as_bytes());
        let mut text = String::new();
        while !text.contains("the client does not read") {
            assert!(log.read_line(&mut text).unwrap() > 0, "{text}");
        }
        let mut http = server.connect();
        http.send("GET /hush-key HTTP/1.1\nHost: hush-host\n");
        while http.line().is_some() {}
        server.signal("-TERM");
        let (status, printed) = server.wait();
        assert!(status.success());
        log.read_to_string(&mut text).unwrap();
        let text = text + &printed;
        assert!(text.contains("a wrong secret, or none"), "{text}");
        assert!(text.contains("another protocol"), "{text}");
        assert!(
            !text.replace(file.to_str().unwrap(), "").contains("hush"),
            "{text}"
        );
    }
    // A password in an address is refused, and not repeated.
    let arguments = [
        "--cluster",
        "redis://user:hush@127.0.0.1:1",
        "--log",
        "trace",
    ];
    let output = server(&arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(!words.contains("hush"), "{words}");
    fs::remove_file(&file).unwrap();
}

#[test]
fn a_log_on_a_pipe_has_no_colours() {
    let (mut server, mut log) = ServerProcess::with_log("trace", &mut server(&[]));
    server.connect().sync();
    wait_until("it is served", || server.connect().sync().1 == 0);
    server.signal("-TERM");
    server.wait();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains(" INFO keywire: started version="), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}
