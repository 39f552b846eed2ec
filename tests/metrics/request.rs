//! A server with metrics, and requests to it.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use crate::common::{DEADLINE, example, server_process::ServerProcess};

pub(crate) struct Server {
    pub(crate) process: ServerProcess,
    /// Of the metrics.
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(example("server"));
        Self::spawn(command.args(arguments))
    }

    /// The command lacks the addresses.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        let mut process = ServerProcess::spawn(command);
        let line = next_line(&mut process);
        let url = line.strip_prefix("metrics at http://").expect(&line);
        let address = url.strip_suffix("/metrics").expect(url).to_owned();
        Self { process, address }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Response::parse(&text)
    }
}

/// The next line that it prints.
pub(crate) fn next_line(process: &mut ServerProcess) -> String {
    let mut line = String::new();
    process.output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Response {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect(text);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        Self {
            status: status.unwrap()[..3].parse().unwrap(),
            headers: lines.map(str::to_owned).collect(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (of, value) = line.split_once(": ")?;
            (of == name).then_some(value)
        })
    }
}
