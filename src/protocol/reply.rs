//! Replies → bytes, for the server; bytes → replies, for clients.

use std::{fmt, io::Write as _};

use memchr::memchr;

use super::{Redacted, Topic, Write, debug_fields, push_fields};

/// The codes of `:error:` lines.
///
/// ```
/// use keywire::protocol::Code;
///
/// assert_eq!(Code::TooLong.to_string(), "too-long");
/// assert_eq!("too-long".parse(), Ok(Code::TooLong));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The line begins with no known command word.
    Unknown,
    /// The command word is known, its fields are wrong.
    Malformed,
    /// The line, or the reply it asks for, is over its limit; or the line took too long to come.
    TooLong,
    /// A limit of the server is reached.
    Full,
    /// The connection has not sent the right secret.
    Unauthorized,
    /// The store failed, and the command left nothing behind.
    Store,
    /// The store failed, and the write may or may not have been applied.
    Unconfirmed,
    /// The server is shutting down, or ends this connection because nothing moved on it.
    Closing,
    /// A code that this version does not know. The message begins with it: `CODE:message`.
    ///
    /// A newer server may send it. It is an error of its line like any other.
    Other,
}

impl Code {
    const KNOWN: [(Code, &str); 8] = [
        (Code::Unknown, "unknown"),
        (Code::Malformed, "malformed"),
        (Code::TooLong, "too-long"),
        (Code::Full, "full"),
        (Code::Unauthorized, "unauthorized"),
        (Code::Store, "store"),
        (Code::Unconfirmed, "unconfirmed"),
        (Code::Closing, "closing"),
    ];

    /// The code as it is on the wire; `other` for [`Code::Other`], whose name is in the message.
    ///
    /// ```
    /// assert_eq!(keywire::protocol::Code::Full.as_str(), "full");
    /// ```
    pub fn as_str(self) -> &'static str {
        let found = Self::KNOWN.iter().find(|(code, _)| *code == self);
        found.map_or("other", |(_, name)| name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads a known code. Any other name is an error.
impl std::str::FromStr for Code {
    type Err = ReplyError;

    fn from_str(name: &str) -> Result<Self, ReplyError> {
        let found = Self::KNOWN.iter().find(|(_, known)| *known == name);
        found.map(|(code, _)| *code).ok_or(ReplyError)
    }
}

/// A line from the server, borrowed from the bytes that came.
///
/// `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::protocol::{Code, Reply};
///
/// assert_eq!(
///     Reply::parse(b"user:alice"),
///     Ok(Reply::Value { key: b"user", value: b"alice" }),
/// );
/// assert_eq!(Reply::parse(b":sync:3:t"), Ok(Reply::Sync { dropped: 3, token: b"t" }));
///
/// let mut out = Vec::new();
/// Reply::Error { line: 2, code: Code::Unknown, message: b"no such command" }.encode(&mut out);
/// assert_eq!(out, b":error:2:unknown:no such command\n");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reply<'a> {
    /// `key:value`, one value of a `Get` or a `GetPrefix`; in the reply to `Keys`, the number of the
    /// key's values.
    Value {
        /// The key that was read.
        key: &'a [u8],
        /// One of its values.
        value: &'a [u8],
    },
    /// `:sync:DROPPED:token`, the reply to `Sync`.
    Sync {
        /// Reply lines dropped on this connection since the Sync before.
        dropped: u64,
        /// The token of the `Sync`; empty if it had none.
        token: &'a [u8],
    },
    /// `:stats:name=N name=N ...`, the reply to `Stats`.
    Stats(
        /// What follows `:stats:`. [`Stats`](crate::Stats) reads it.
        &'a [u8],
    ),
    /// `:error:LINE:CODE:message`, a line that was refused.
    Error {
        /// The 1-based number of the line on this connection; 0 if no line is to blame.
        line: u64,
        /// What kind of error it is, for programs.
        code: Code,
        /// What went wrong, for a person. With [`Code::Other`], the unknown code and a colon stand
        /// before it.
        message: &'a [u8],
    },
    /// `:watch:key` or `:watchprefix:prefix`, the reply to `Watch` and `WatchPrefix`: from here on,
    /// every change comes as a [`Change`](Self::Change).
    Watch(Topic<'a>),
    /// `:put:key:value`, `:update:key:old:new`, `:delete:key`, `:set:key:value` or
    /// `:remove:key:value`: a change of a watched key.
    Change(Write<'a>),
    /// `:missed:N`: changes that this connection did not get, because it did not keep up, or because
    /// the store missed them.
    Missed(
        /// How many, since the last such line; 0 if their number is unknown.
        u64,
    ),
    /// A control line of a kind that this version does not know. A client ignores it.
    Other(
        /// What follows its first colon.
        &'a [u8],
    ),
}

impl<'a> Reply<'a> {
    /// Reads one line from the server, without its ending. It is pure and allocates nothing.
    ///
    /// # Errors
    ///
    /// [`ReplyError`] if the line holds no colon, or is of a known kind and malformed.
    ///
    /// ```
    /// use keywire::protocol::{Reply, Write};
    ///
    /// let reply = Reply::parse(b":delete:user");
    /// assert_eq!(reply, Ok(Reply::Change(Write::Delete { key: b"user" })));
    /// ```
    pub fn parse(line: &'a [u8]) -> Result<Self, ReplyError> {
        let mut rest = line;
        let mut field = || {
            let colon = memchr(b':', rest)?;
            let field = &rest[..colon];
            rest = &rest[colon + 1..];
            Some(field)
        };
        let first = field().ok_or(ReplyError)?;
        if !first.is_empty() {
            return Ok(Reply::Value {
                key: first,
                value: rest,
            });
        }
        // A kind that has no colon behind it is none of those below.
        match field().unwrap_or_default() {
            b"sync" => Ok(Reply::Sync {
                dropped: number(field())?,
                token: rest,
            }),
            b"stats" => Ok(Reply::Stats(rest)),
            b"error" => error(rest),
            b"put" => Ok(Reply::Change(Write::Put {
                key: key(field())?,
                value: rest,
            })),
            b"update" => Ok(Reply::Change(Write::Update {
                key: key(field())?,
                old: field().ok_or(ReplyError)?,
                new: rest,
            })),
            b"delete" => Ok(Reply::Change(Write::Delete {
                key: key(without_colon(rest))?,
            })),
            b"set" => Ok(Reply::Change(Write::Set {
                key: key(field())?,
                value: rest,
            })),
            b"remove" => Ok(Reply::Change(Write::Remove {
                key: key(field())?,
                value: rest,
            })),
            b"watch" => Ok(Reply::Watch(Topic::Key(key(without_colon(rest))?))),
            b"watchprefix" => {
                let prefix = without_colon(rest).ok_or(ReplyError)?;
                Ok(Reply::Watch(Topic::Prefix(prefix)))
            }
            b"missed" => Ok(Reply::Missed(number(Some(rest))?)),
            _ => Ok(Reply::Other(&line[1..])),
        }
    }

    /// Appends the line, its LF included, to `out`.
    ///
    /// ```
    /// use keywire::protocol::Reply;
    ///
    /// let mut out = Vec::new();
    /// Reply::Missed(3).encode(&mut out);
    /// assert_eq!(out, b":missed:3\n");
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Reply::Value { key, value } => push_value(out, key, value),
            Reply::Sync { dropped, token } => push_sync(out, dropped, token),
            Reply::Stats(counters) => push_parts(out, &[b":stats:", counters]),
            Reply::Error {
                line,
                code,
                message,
            } => {
                push_error_head(out, line, code);
                push_parts(out, &[message]);
            }
            Reply::Watch(topic) => push_watch(out, topic),
            Reply::Change(change) => push_change(out, change),
            Reply::Missed(events) => push_missed(out, events),
            Reply::Other(rest) => push_parts(out, &[b":", rest]),
        }
    }
}

/// What follows `:error:`.
fn error(rest: &[u8]) -> Result<Reply<'_>, ReplyError> {
    let colon = memchr(b':', rest).ok_or(ReplyError)?;
    let line = number(Some(&rest[..colon]))?;
    let rest = &rest[colon + 1..];
    let colon = memchr(b':', rest).ok_or(ReplyError)?;
    let code = std::str::from_utf8(&rest[..colon]).ok();
    let (code, message) = match code.and_then(|code| code.parse().ok()) {
        Some(code) => (code, &rest[colon + 1..]),
        None => (Code::Other, rest),
    };
    Ok(Reply::Error {
        line,
        code,
        message,
    })
}

fn without_colon(rest: &[u8]) -> Option<&[u8]> {
    memchr(b':', rest).is_none().then_some(rest)
}

fn key(field: Option<&[u8]>) -> Result<&[u8], ReplyError> {
    field.filter(|key| !key.is_empty()).ok_or(ReplyError)
}

fn number(field: Option<&[u8]>) -> Result<u64, ReplyError> {
    let digits = std::str::from_utf8(field.ok_or(ReplyError)?);
    digits
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(ReplyError)
}

pub(crate) fn push_value(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.reserve(key.len() + value.len() + 2);
    out.extend_from_slice(key);
    out.push(b':');
    out.extend_from_slice(value);
    out.push(b'\n');
}

pub(crate) fn push_sync(out: &mut Vec<u8>, dropped: u64, token: &[u8]) {
    push(out, format_args!(":sync:{dropped}:"));
    push_parts(out, &[token]);
}

pub(crate) fn push_watch(out: &mut Vec<u8>, topic: Topic<'_>) {
    match topic {
        Topic::Key(key) => push_parts(out, &[b":watch:", key]),
        Topic::Prefix(prefix) => push_parts(out, &[b":watchprefix:", prefix]),
    }
}

pub(crate) fn push_change(out: &mut Vec<u8>, change: Write<'_>) {
    change.with_fields(|[_, word], fields| push_fields(out, word, fields));
}

pub(crate) fn push_missed(out: &mut Vec<u8>, events: u64) {
    push(out, format_args!(":missed:{events}\n"));
}

fn push_parts(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

/// The message may come from a store, so a byte that would end the line early becomes a space.
pub(crate) fn push_error(out: &mut Vec<u8>, line: u64, code: Code, message: impl fmt::Display) {
    push_error_head(out, line, code);
    let from = out.len();
    push(out, format_args!("{message}"));
    for byte in &mut out[from..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

fn push_error_head(out: &mut Vec<u8>, line: u64, code: Code) {
    match code {
        // The message begins with it.
        Code::Other => push(out, format_args!(":error:{line}:")),
        code => push(out, format_args!(":error:{line}:{code}:")),
    }
}

/// Writing to a `Vec` fails only if the `Display` of a store's error does; what it wrote stands.
fn push(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

impl fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Reply::Value { key, value } => {
                debug_fields(f, "Value", &[("key", key), ("value", value)])
            }
            Reply::Sync { dropped, token } => f
                .debug_struct("Sync")
                .field("dropped", &dropped)
                .field("token", &Redacted(token))
                .finish(),
            Reply::Stats(counters) => f
                .debug_tuple("Stats")
                .field(&String::from_utf8_lossy(counters))
                .finish(),
            Reply::Error {
                line,
                code,
                message,
            } => f
                .debug_struct("Error")
                .field("line", &line)
                .field("code", &code)
                .field("message", &String::from_utf8_lossy(message))
                .finish(),
            Reply::Watch(topic) => f.debug_tuple("Watch").field(&topic).finish(),
            Reply::Change(change) => change.fmt(f),
            Reply::Missed(events) => f.debug_tuple("Missed").field(&events).finish(),
            Reply::Other(rest) => f.debug_tuple("Other").field(&Redacted(rest)).finish(),
        }
    }
}

/// The line is none that a keywire server sends.
///
/// ```
/// use keywire::protocol::{Reply, ReplyError};
///
/// let error: ReplyError = Reply::parse(b"no colon in it").unwrap_err();
/// # drop(error);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReplyError;

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a line of a keywire server")
    }
}

impl std::error::Error for ReplyError {}
