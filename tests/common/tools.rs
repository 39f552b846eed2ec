//! The example client and its like as processes.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{DEADLINE, TestServer, example, server_process::signal_to, wait_until};

pub fn command(server: &TestServer, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(example("client"));
    command.args(arguments);
    command.args(["--connect", &server.address.to_string()]);
    command
}

pub fn client(server: &TestServer, arguments: &[impl AsRef<OsStr>]) -> Output {
    command(server, arguments).output().unwrap()
}

/// Expects this exit code and this output; gives what is on standard error.
#[track_caller]
pub fn expect(output: Output, code: i32, printed: impl AsRef<[u8]>) -> String {
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    let (got, printed) = (
        output.stdout.escape_ascii(),
        printed.as_ref().escape_ascii(),
    );
    assert_eq!(got.to_string(), printed.to_string());
    assert_eq!(code == 2, errors.starts_with("error: "), "{errors}");
    errors
}

/// A child whose output is read line by line. It does not outlive the test.
pub struct ChildProcess {
    pub child: Child,
    pub input: Option<ChildStdin>,
    pub output: Option<BufReader<ChildStdout>>,
}

impl ChildProcess {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        Self {
            input: child.stdin.take(),
            output: child.stdout.take().map(BufReader::new),
            child,
        }
    }

    pub fn line(&mut self) -> String {
        let output = self.output.as_mut().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if output.buffer().is_empty() {
                let mut watched = [PollFd::new(output.get_ref(), PollFlags::IN)];
                let limit = Timespec::try_from(DEADLINE).unwrap();
                assert_eq!(
                    poll(&mut watched, Some(&limit)),
                    Ok(1),
                    "waited in vain for a line"
                );
            }
            let bytes = output.fill_buf().unwrap();
            if bytes.is_empty() {
                break;
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            line.extend_from_slice(&bytes[..taken]);
            output.consume(taken);
        }
        String::from_utf8(line).unwrap()
    }

    /// Waits for the end; gives the exit code.
    pub fn end(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("it has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    pub fn send(&mut self, words: &str) {
        self.input
            .as_mut()
            .unwrap()
            .write_all(words.as_bytes())
            .unwrap();
    }

    pub fn signal(&self, signal: &str) {
        signal_to(&self.child, signal);
    }

    pub fn errors(&mut self) -> String {
        std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
