//! Lines → commands.

use std::fmt;

use memchr::memchr;

use super::{Code, Hidden};

/// What a client may ask for, borrowed from the line that said it.
///
/// `Debug` shows lengths, never keys or values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Something for the store to do.
    Operation(Operation<'a>),
    /// `Sync` or `Sync:token`: a fence behind everything sent before it.
    Sync {
        /// Given back in the reply. `None` is the bare word, which is answered like an empty token.
        token: Option<&'a [u8]>,
    },
    /// `Stats`: reads the server's counters.
    Stats,
    /// `Watch:key` or `WatchPrefix:prefix`: from now on, this connection hears of changes.
    Watch(Topic<'a>),
    /// `Unwatch:key` or `UnwatchPrefix:prefix`: ends what a `Watch` of the same began.
    Unwatch(Topic<'a>),
    /// `Auth:secret`: asks to be let in.
    Auth {
        /// Any bytes; colons, too.
        secret: &'a [u8],
    },
}

/// What a connection can watch.
///
/// `Debug` shows lengths, never keys.
///
/// ```
/// use keywire::protocol::{Command, Topic};
///
/// let command = Command::parse(b"WatchPrefix:user.").unwrap();
/// assert_eq!(command, Command::Watch(Topic::Prefix(b"user.")));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic<'a> {
    /// One key. Not empty; no `:`.
    Key(&'a [u8]),
    /// Every key that begins so; all keys where it is empty. No `:`.
    Prefix(&'a [u8]),
}

/// The commands that a store applies.
///
/// `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::protocol::Operation;
///
/// let operation = Operation::Put { key: b"user", value: b"secret" };
/// assert_eq!(format!("{operation:?}"), "Put { key: [4 bytes], value: [6 bytes] }");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// `Put:key:value` appends value to the key's list.
    Put {
        /// Not empty; no `:`.
        key: &'a [u8],
        /// May be empty, may hold colons.
        value: &'a [u8],
    },
    /// `Get:key` reads the key's list.
    Get {
        /// Not empty; no `:`.
        key: &'a [u8],
    },
    /// `Delete:key` removes the key and all its values.
    Delete {
        /// Not empty; no `:`.
        key: &'a [u8],
    },
    /// `Update:key:old:new` replaces the first value equal to old, in place, or else appends new.
    Update {
        /// Not empty; no `:`.
        key: &'a [u8],
        /// May be empty; no `:`.
        old: &'a [u8],
        /// May be empty, may hold colons.
        new: &'a [u8],
    },
}

impl<'a> Command<'a> {
    /// Reads one line, without its ending. Pure; allocates nothing.
    ///
    /// The line must hold no LF: [`LineDecoder`](super::Lines) cuts at every one.
    ///
    /// ```
    /// use keywire::protocol::{Command, Operation, ParseError};
    ///
    /// let command = Command::parse(b"Update:user:alice:a:b").unwrap();
    /// assert_eq!(
    ///     command,
    ///     Command::Operation(Operation::Update { key: b"user", old: b"alice", new: b"a:b" }),
    /// );
    /// assert_eq!(Command::parse(b"Get:"), Err(ParseError::EmptyKey));
    /// ```
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        // The most frequent words first.
        let operation = if let Some(rest) = line.strip_prefix(b"Get:") {
            Operation::Get {
                key: sole_key(rest)?,
            }
        } else if let Some(rest) = line.strip_prefix(b"Put:") {
            let (key, value) = key_and_rest(rest)?;
            Operation::Put { key, value }
        } else if let Some(rest) = line.strip_prefix(b"Update:") {
            let (key, rest) = key_and_rest(rest)?;
            let (old, new) = split(rest).ok_or(ParseError::MissingField)?;
            Operation::Update { key, old, new }
        } else if let Some(rest) = line.strip_prefix(b"Delete:") {
            Operation::Delete {
                key: sole_key(rest)?,
            }
        } else if let Some(rest) = line.strip_prefix(b"Sync") {
            return match rest {
                [] => Ok(Command::Sync { token: None }),
                [b':', token @ ..] => Ok(Command::Sync { token: Some(token) }),
                _ => Err(ParseError::UnknownCommand),
            };
        } else {
            return Self::parse_rare(line);
        };
        Ok(Command::Operation(operation))
    }

    fn parse_rare(line: &'a [u8]) -> Result<Self, ParseError> {
        let (word, rest) = match split(line) {
            Some((word, rest)) => (word, Some(rest)),
            None => (line, None),
        };
        let field = rest.ok_or(ParseError::MissingField);
        match word {
            b"Stats" if rest.is_none() => Ok(Command::Stats),
            b"Stats" => Err(ParseError::ExtraField),
            b"Watch" => Ok(Command::Watch(Topic::Key(sole_key(field?)?))),
            b"Unwatch" => Ok(Command::Unwatch(Topic::Key(sole_key(field?)?))),
            b"WatchPrefix" => Ok(Command::Watch(Topic::Prefix(sole_prefix(field?)?))),
            b"UnwatchPrefix" => Ok(Command::Unwatch(Topic::Prefix(sole_prefix(field?)?))),
            b"Auth" => Ok(Command::Auth { secret: field? }),
            b"Put" | b"Get" | b"Delete" | b"Update" => Err(ParseError::MissingField),
            _ => Err(ParseError::UnknownCommand),
        }
    }

    /// Appends the line, its LF included, to `out`. What was parsed comes out as it was.
    ///
    /// A field that ends the line and itself ends in a CR loses it on the way, because one CR
    /// before the LF is stripped.
    ///
    /// ```
    /// use keywire::protocol::{Command, Operation};
    ///
    /// let mut out = Vec::new();
    /// Command::from(Operation::Get { key: b"user" }).encode(&mut out);
    /// Command::Sync { token: Some(b"7") }.encode(&mut out);
    /// assert_eq!(out, b"Get:user\nSync:7\n");
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        let parts: [&[u8]; 6] = match *self {
            Command::Operation(Operation::Put { key, value }) => {
                [b"Put:", key, b":", value, b"", b""]
            }
            Command::Operation(Operation::Get { key }) => [b"Get:", key, b"", b"", b"", b""],
            Command::Operation(Operation::Delete { key }) => [b"Delete:", key, b"", b"", b"", b""],
            Command::Operation(Operation::Update { key, old, new }) => {
                [b"Update:", key, b":", old, b":", new]
            }
            Command::Sync { token: None } => [b"Sync", b"", b"", b"", b"", b""],
            Command::Sync { token: Some(token) } => [b"Sync:", token, b"", b"", b"", b""],
            Command::Stats => [b"Stats", b"", b"", b"", b"", b""],
            Command::Watch(topic) => topic.parts(b"Watch:", b"WatchPrefix:"),
            Command::Unwatch(topic) => topic.parts(b"Unwatch:", b"UnwatchPrefix:"),
            Command::Auth { secret } => [b"Auth:", secret, b"", b"", b"", b""],
        };
        for part in parts {
            out.extend_from_slice(part);
        }
        out.push(b'\n');
    }
}

impl<'a> Topic<'a> {
    /// The parts of a line about it, the word being the one or the other.
    fn parts(self, key_word: &'a [u8], prefix_word: &'a [u8]) -> [&'a [u8]; 6] {
        match self {
            Topic::Key(key) => [key_word, key, b"", b"", b"", b""],
            Topic::Prefix(prefix) => [prefix_word, prefix, b"", b"", b"", b""],
        }
    }
}

impl<'a> From<Operation<'a>> for Command<'a> {
    fn from(operation: Operation<'a>) -> Self {
        Command::Operation(operation)
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', bytes)?;
    Some((&bytes[..colon], &bytes[colon + 1..]))
}

fn sole_key(rest: &[u8]) -> Result<&[u8], ParseError> {
    if rest.is_empty() {
        Err(ParseError::EmptyKey)
    } else if memchr(b':', rest).is_some() {
        Err(ParseError::ExtraField)
    } else {
        Ok(rest)
    }
}

fn sole_prefix(rest: &[u8]) -> Result<&[u8], ParseError> {
    match memchr(b':', rest) {
        Some(_) => Err(ParseError::ExtraField),
        None => Ok(rest),
    }
}

fn key_and_rest(rest: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    match split(rest) {
        Some((b"", _)) => Err(ParseError::EmptyKey),
        Some(fields) => Ok(fields),
        None => Err(ParseError::MissingField),
    }
}

/// Why a line is no command.
///
/// ```
/// use keywire::protocol::{Code, Command};
///
/// let error = Command::parse(b"put:a:1").unwrap_err(); // words are case-sensitive
/// assert_eq!(error.code(), Code::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// The line begins with no known word.
    UnknownCommand,
    /// The word is followed by too few fields.
    MissingField,
    /// The key is empty.
    EmptyKey,
    /// The word is followed by too many fields, or a key holds a colon.
    ExtraField,
}

impl ParseError {
    /// The code that the `:error:` line carries.
    pub fn code(self) -> Code {
        match self {
            ParseError::UnknownCommand => Code::Unknown,
            ParseError::MissingField | ParseError::EmptyKey | ParseError::ExtraField => {
                Code::Malformed
            }
        }
    }

    fn message(self) -> &'static str {
        match self {
            ParseError::UnknownCommand => {
                "no such command (case matters); there are Put, Get, Delete, Update, Sync, Stats, \
                 Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth"
            }
            ParseError::MissingField => {
                "a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
                 Update:key:old:new, Watch:key, WatchPrefix:prefix and Auth:secret"
            }
            ParseError::EmptyKey => "the key is empty",
            ParseError::ExtraField => {
                "a colon too many; Get, Delete and Watch take a key, which holds none, and Stats takes \
                 nothing"
            }
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for ParseError {}

impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Operation(operation) => operation.fmt(f),
            Command::Sync { token } => f
                .debug_struct("Sync")
                .field("token", &token.map(Hidden))
                .finish(),
            Command::Stats => f.write_str("Stats"),
            Command::Watch(topic) => f.debug_tuple("Watch").field(topic).finish(),
            Command::Unwatch(topic) => f.debug_tuple("Unwatch").field(topic).finish(),
            Command::Auth { .. } => f.write_str("Auth"),
        }
    }
}

impl fmt::Debug for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Key(key) => f.debug_tuple("Key").field(&Hidden(key)).finish(),
            Topic::Prefix(prefix) => f.debug_tuple("Prefix").field(&Hidden(prefix)).finish(),
        }
    }
}

impl fmt::Debug for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, fields): (_, &[(_, &[u8])]) = match self {
            Operation::Put { key, value } => ("Put", &[("key", key), ("value", value)]),
            Operation::Get { key } => ("Get", &[("key", key)]),
            Operation::Delete { key } => ("Delete", &[("key", key)]),
            Operation::Update { key, old, new } => {
                ("Update", &[("key", key), ("old", old), ("new", new)])
            }
        };
        let mut out = f.debug_struct(name);
        for &(field, bytes) in fields {
            out.field(field, &Hidden(bytes));
        }
        out.finish()
    }
}
