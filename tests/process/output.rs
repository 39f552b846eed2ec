//! What the example server prints: whoever does not read it, or can't take it, holds up nothing.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    common::{
        example,
        server_process::{ServerProcess, refused, wait_for},
    },
    printer::{Notice, Printer, json_notice, text_notice},
};

/// A socket that takes no more bytes, and what it holds to the other side.
fn full() -> (OwnedFd, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    while ours.write(&[b'.'; 4096]).is_ok() {}
    while ours.write(b".").is_ok() {}
    ours.set_nonblocking(false).unwrap();
    (ours.into(), theirs)
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_neither_clients_nor_the_end() {
    let mut server = ServerProcess::start(&["--listen", "127.0.0.1:0", "--stats", "0.001"]);
    let mut client = server.connect();
    // While nobody reads, until the pipe takes no more lines.
    let (mut held, mut since) = (0, Instant::now());
    while held < 60_000 || since.elapsed() < Duration::from_millis(200) {
        assert_eq!(client.sync(), (vec![], 0));
        let now = rustix::io::ioctl_fionread(server.output.get_ref()).unwrap();
        if now != held {
            (held, since) = (now, Instant::now());
        }
    }
    server.signal("-TERM");
    while client.line().is_some() {}
    assert!(wait_for(&mut server.child).success());
}

#[test]
fn an_error_that_nobody_can_read_still_ends_the_program_with_its_code() {
    let (stderr, _theirs) = full();
    let mut child = Command::new(example("server"))
        .args(["--listen", "unix:/nowhere/at/all"])
        .stderr(stderr)
        .spawn()
        .unwrap();
    assert_eq!(wait_for(&mut child).code(), Some(1));
}

#[test]
fn streams_that_are_full_or_closed_change_nothing() {
    let secret = std::env::temp_dir().join(format!("keywire-output-{}", std::process::id()));
    fs::write(&secret, "open sesame").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    for redirection in ["2>/dev/full", "2>&-"] {
        let run = |arguments: &[&str]| {
            let mut command = Command::new("sh");
            command
                .arg("-c")
                .arg(format!("exec \"$0\" \"$@\" {redirection}"))
                .arg(example("server"))
                .args(arguments);
            command
        };
        // It warns of the file, which is too open.
        let file = secret.to_str().unwrap();
        let mut server = ServerProcess::spawn(&mut run(&[
            "--listen",
            "127.0.0.1:0",
            "--secret-file",
            file,
        ]));
        let mut client = server.connect();
        client.send("Auth:open sesame\n");
        client.sync();
        server.signal("-TERM");
        assert!(server.wait().0.success());

        for (arguments, code) in [
            (["--listen", "unix:/nowhere/at/all"], 1),
            (["--outbox-lines", "0"], 2),
        ] {
            let status = run(&arguments).status().unwrap();
            assert_eq!(status.code(), Some(code), "{redirection}");
        }
    }
    fs::remove_file(&secret).unwrap();

    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut server = Command::new(example("server"));
    let path = std::env::temp_dir().join(format!("keywire-output-{}.sock", std::process::id()));
    let address = format!("unix:{}", path.display());
    let mut child = server
        .args(["--listen", &address, "--stats", "0.01"])
        .stdout(full)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = None;
    crate::common::wait_until("it serves", || {
        client = UnixStream::connect(&path).ok();
        client.is_some()
    });
    let mut client = client.unwrap();
    client.write_all(b"Sync:here\n").unwrap();
    let mut reply = [0; 13];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b":sync:0:here\n");
    crate::common::server_process::signal_to(&child, "-TERM");
    assert!(wait_for(&mut child).success());
    assert!(!path.exists());
}

#[test]
fn the_servers_inside_other_programs_do_not_panic_either() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for name in ["tokio", "async_std"] {
        for (address, code) in [("127.0.0.1:0", 0), ("192.0.2.1:0", 1)] {
            let mut program = Command::new(example(name));
            program.arg(address).stdin(Stdio::null());
            let mut child = program.stdout(full()).stderr(full()).spawn().unwrap();
            assert_eq!(wait_for(&mut child).code(), Some(code), "{name} {address}");
        }
    }
}

#[test]
fn an_error_is_printed_with_its_cause_once() {
    // The address is for documentation, so this machine does not have it.
    let mut command = Command::new(example("server"));
    let (code, words) = refused(command.args(["--listen", "192.0.2.1:0", "--open"]));
    assert_eq!(code, 1);
    assert_eq!(words.matches("os error").count(), 1, "{words}");
}

/// Gives what is written to it, after each write has been let through.
struct Gate {
    open: mpsc::Receiver<()>,
    written: mpsc::Sender<Vec<u8>>,
}

impl io::Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.open.recv();
        let _ = self.written.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A printer, what lets it write (dropped, it writes all), and what it has written.
fn gated(notice: Notice) -> (Printer, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
    let (open, gate) = mpsc::channel();
    let (written, output) = mpsc::channel();
    let gate = Gate {
        open: gate,
        written,
    };
    (Printer::start(gate, notice).unwrap(), open, output)
}

/// The first number that is neither among these lines nor counted as left out.
#[track_caller]
fn count(text: &str) -> usize {
    text.lines()
        .fold(0, |next, line| match line.strip_suffix(" lines left out") {
            Some(left_out) => next + left_out.parse::<usize>().unwrap(),
            None => {
                assert_eq!(line, next.to_string());
                next + 1
            }
        })
}

#[test]
fn lines_that_find_no_room_are_counted_where_they_are_missing() {
    const LINES: usize = 5_000;
    let (printer, open, output) = gated(text_notice);
    for number in 0..LINES {
        printer.line(number);
    }
    drop(open);
    let (mut text, mut lines) = (String::new(), LINES);
    while !text.contains("left out") {
        printer.line(lines);
        lines += 1;
        let more = output.recv_timeout(crate::common::DEADLINE).unwrap();
        text.push_str(std::str::from_utf8(&more).unwrap());
    }
    assert!((LINES..=lines).contains(&count(&text)), "{text}");
}

#[test]
fn the_end_waits_for_a_stream_that_takes_lines_and_gives_up_one_that_does_not() {
    const LINES: usize = 5_000;
    let (printer, open, output) = gated(text_notice);
    for number in 0..LINES {
        printer.line(number);
    }
    drop(open);
    printer.finish();
    let text: Vec<u8> = output.try_iter().flatten().collect();
    let text = String::from_utf8(text).unwrap();
    assert!(text.ends_with(" lines left out\n"), "{text}");
    assert_eq!(count(&text), LINES);

    let (printer, _open, output) = gated(text_notice);
    printer.line(0);
    let began = Instant::now();
    printer.finish();
    assert!(began.elapsed() < crate::common::DEADLINE / 2);
    assert!(output.try_recv().is_err());
}

#[test]
fn what_says_that_lines_are_missing_in_a_log_of_json_is_json() {
    let (printer, open, output) = gated(json_notice);
    for _ in 0..5_000 {
        printer.line("{}");
    }
    drop(open);
    printer.finish();
    let text: Vec<u8> = output.try_iter().flatten().collect();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, written) = lines.split_last().unwrap();
    assert_eq!(last["message"], "lines left out", "{last}");
    let left_out = last["lines"].as_u64().unwrap();
    assert_eq!(written.len() as u64 + left_out, 5_000);
    crate::logs::check_fields(last);
}
