//! Peers that speak another protocol.
//!
//! Any web page can have its reader's browser send bytes to a port of that machine. They come behind
//! an HTTP request line and a `Host:` line, so a connection that shows one of these before its first
//! valid command is closed, and nothing behind it is applied. A `Host:` line counts as well,
//! since a page chooses the target of the request line, which can make it longer than any limit.

use super::message::InputEnd;
use crate::protocol::{Command, LineBlock, LineTooLong};

/// What the peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherProtocol {
    Http,
    Tls,
}

impl OtherProtocol {
    /// For a person.
    pub(crate) fn message(self) -> &'static str {
        match self {
            OtherProtocol::Http => "this is no HTTP server; nothing behind this line is looked at",
            OtherProtocol::Tls => "the client seems to speak TLS, and this port does not",
        }
    }

    /// What a line that is no command shows.
    pub(crate) fn of_line(line: &[u8]) -> Option<Self> {
        (is_request(line) || is_host(line)).then_some(OtherProtocol::Http)
    }

    /// What the first bytes of a connection show: a TLS record of a handshake, of any version.
    pub(crate) fn of_first_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.starts_with(b"\x16\x03").then_some(OtherProtocol::Tls)
    }
}

/// A method, a space, a target, and ` HTTP/`.
fn is_request(line: &[u8]) -> bool {
    let is_method = |byte: &u8| byte.is_ascii_graphic() && *byte != b':';
    let method = line.iter().take_while(|byte| is_method(byte)).count();
    let (method, rest) = line.split_at(method);
    let rest = rest.strip_prefix(b" ");
    let has_version = |rest: &[u8]| memchr::memmem::find(rest, b" HTTP/").is_some();
    !method.is_empty() && rest.is_some_and(has_version)
}

/// The names of headers are case-insensitive.
fn is_host(line: &[u8]) -> bool {
    line.get(..5)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"host:"))
}

/// What is known of a connection before its first valid command.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The first bytes have been examined.
    has_begun: bool,
    /// There was a valid command.
    has_passed: bool,
    /// Lines that have been examined.
    lines: u64,
}

impl Opening {
    pub(crate) fn pass(&mut self) {
        self.has_begun = true;
        self.has_passed = true;
    }

    /// Examines the beginning of all that was read, once it is there. Says how the input ends.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8]) -> Option<InputEnd> {
        if self.has_begun {
            return None;
        }
        // The second byte may come with the next read.
        self.has_begun = bytes.len() > 1;
        let protocol = OtherProtocol::of_first_bytes(bytes)?;
        Some(InputEnd::OtherProtocol { protocol, line: 1 })
    }

    /// Examines the whole lines of a read. Says how the input ends behind those that are left.
    pub(crate) fn on_lines(&mut self, block: &mut LineBlock) -> Option<InputEnd> {
        if self.has_passed {
            return None;
        }
        let mut seen = 0;
        let end = self
            .on_bytes(block.bytes())
            .or_else(|| self.examine(block, &mut seen));
        self.has_begun = true;
        if end.is_some() {
            *block = block.split_to(seen).0;
        }
        end
    }

    fn examine(&mut self, block: &LineBlock, seen: &mut usize) -> Option<InputEnd> {
        let (mut at, mut begin) = (0, 0);
        while let Some(line) = block.line_at(&mut at) {
            let protocol = match line {
                Ok(line) if Command::parse(line).is_ok() => {
                    self.pass();
                    return None;
                }
                Ok(line) => OtherProtocol::of_line(line),
                // Its first bytes are there.
                Err(LineTooLong) => {
                    is_host(&block.bytes()[begin..at]).then_some(OtherProtocol::Http)
                }
            };
            self.lines += 1;
            if let Some(protocol) = protocol {
                let line = self.lines;
                return Some(InputEnd::OtherProtocol { protocol, line });
            }
            *seen += 1;
            begin = at;
        }
        None
    }
}
