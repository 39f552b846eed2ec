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
    /// The line must hold no LF: [`Lines`](super::Lines) cuts at every one.
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
            return match line {
                b"Stats" => Ok(Command::Stats),
                b"Put" | b"Get" | b"Delete" | b"Update" => Err(ParseError::MissingField),
                _ if line.starts_with(b"Stats:") => Err(ParseError::ExtraField),
                _ => Err(ParseError::UnknownCommand),
            };
        };
        Ok(Command::Operation(operation))
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
        };
        for part in parts {
            out.extend_from_slice(part);
        }
        out.push(b'\n');
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

    fn words(self) -> &'static str {
        match self {
            ParseError::UnknownCommand => {
                "no such command (case matters); there are Put, Get, Delete, Update, Sync and Stats"
            }
            ParseError::MissingField => {
                "a field is missing; the forms are Put:key:value, Get:key, Delete:key and \
                 Update:key:old:new"
            }
            ParseError::EmptyKey => "the key is empty",
            ParseError::ExtraField => {
                "a colon too many; Get and Delete take a key, which holds none, and Stats takes nothing"
            }
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
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
