//! Peers that speak another protocol.
//!
//! Any web page can have its reader's browser send bytes to a port of that machine. They come behind
//! an HTTP request line and a `Host:` line, so a connection that shows one of these before its first
//! valid command is closed, and nothing behind it is applied. A `Host:` line is looked for as well,
//! since a page chooses the target of the request line, which can make it longer than any limit.

use std::io;

use super::{Session, message::InputEnd, rate_limiter::RateLimiter, reader::Input};
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

    /// What a line shows that is no command.
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
    has_begun: bool,
    /// Lines looked at so far.
    lines: u64,
}

impl Opening {
    /// Looks at the beginning of all that was read, once it is there.
    pub(crate) fn first_bytes(&mut self, bytes: &[u8]) -> Option<OtherProtocol> {
        if self.has_begun {
            return None;
        }
        // The second byte may come with the next read.
        self.has_begun = bytes.len() > 1;
        OtherProtocol::of_first_bytes(bytes)
    }

    /// Looks at the whole lines of a read, before anything of them is handed over. Gives the number
    /// of those to be handed over, and what ends the connection behind them; nothing where there is
    /// a valid command.
    fn look(&mut self, block: &LineBlock) -> Option<(usize, Option<OtherProtocol>)> {
        let first = self.first_bytes(block.bytes());
        self.has_begun = true;
        if first.is_some() {
            return Some((0, first));
        }
        let (mut seen, mut at, mut begin) = (0, 0, 0);
        while let Some(line) = block.line_at(&mut at) {
            let other_protocol = match line {
                Ok(line) if Command::parse(line).is_ok() => return None,
                Ok(line) => OtherProtocol::of_line(line),
                // Its first bytes are there.
                Err(LineTooLong) => {
                    is_host(&block.bytes()[begin..at]).then_some(OtherProtocol::Http)
                }
            };
            if other_protocol.is_some() {
                return Some((seen, other_protocol));
            }
            begin = at;
            seen += 1;
        }
        Some((seen, None))
    }
}

impl Session {
    /// Hands over the lines of a connection that has shown no valid command so far. Says whether the
    /// server is closing, or how the input ends.
    pub(crate) async fn deliver_first(
        &self,
        mut block: LineBlock,
        opening: &mut Option<Opening>,
        limiter: &mut Option<Box<RateLimiter>>,
    ) -> io::Result<Result<bool, InputEnd>> {
        let mut other_protocol = None;
        if let Some(look) = opening {
            match look.look(&block) {
                None => *opening = None,
                Some((seen, found)) => {
                    look.lines += seen as u64;
                    if let Some(found) = found {
                        block = block.split_to(seen).0;
                        other_protocol = Some(InputEnd::OtherProtocol {
                            protocol: found,
                            line: look.lines + 1,
                        });
                    }
                }
            }
        }
        let closing = match self.deliver(block, limiter.is_some()) {
            Input::Incomplete => false,
            input => self.await_processed(input, limiter).await?,
        };
        Ok(other_protocol.map_or(Ok(closing), Err))
    }
}
