//! Lines → commands.

use std::fmt;

use memchr::memchr;

use super::{Code, Field, Redacted, debug_fields, push_fields};

/// A command of a client, borrowed from its line.
///
/// `Debug` shows lengths, never keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command<'a> {
    /// Something for the store to do.
    Operation(Operation<'a>),
    /// `Sync` or `Sync:token`: a fence behind everything sent before it.
    Sync {
        /// Comes back in the reply. `None` is the bare word, which is answered like an empty token.
        token: Option<&'a [u8]>,
    },
    /// `GetPrefix:prefix`: reads every key that begins so, with its values.
    GetPrefix {
        /// Empty for all keys. No `:`.
        prefix: &'a [u8],
    },
    /// `Keys:prefix`: the same keys, each with the number of its values.
    Keys {
        /// Empty for all keys. No `:`.
        prefix: &'a [u8],
    },
    /// `Stats`: reads the server's counters.
    Stats,
    /// `Watch:key` or `WatchPrefix:prefix`: from now on, this connection gets an event for every change.
    Watch(Topic<'a>),
    /// `Unwatch:key` or `UnwatchPrefix:prefix`: ends the watch of the same key or prefix.
    Unwatch(Topic<'a>),
    /// `Auth:secret`: authenticates the connection, if the server wants a secret.
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
/// let command = Command::parse(b"WatchPrefix:user.")?;
/// assert_eq!(command, Command::Watch(Topic::Prefix(b"user.")));
/// # Ok::<(), keywire::protocol::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Topic<'a> {
    /// One key. Not empty; no `:`.
    Key(&'a [u8]),
    /// Every key that begins with this; all keys if it is empty. No `:`.
    Prefix(&'a [u8]),
}

/// The commands that a store applies.
///
/// Later versions may add reads and writes. A store [fails](crate::store::Answer::fail) those that it
/// does not know.
///
/// `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::protocol::{Operation, Write};
///
/// let put = Operation::Write(Write::Put { key: b"user", value: b"secret" });
/// assert_eq!(format!("{put:?}"), "Put { key: [4 bytes], value: [6 bytes] }");
/// assert_eq!(put.key(), Operation::Get { key: b"user" }.key());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// `Get:key` reads the key's list.
    Get {
        /// Not empty; no `:`.
        key: &'a [u8],
    },
    /// A command that may change the key's list.
    Write(Write<'a>),
}

/// The writes: as commands, and as changes that watchers are notified of.
///
/// `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::protocol::{Command, Reply, Write};
///
/// let write = Write::Update { key: b"user", old: b"alice", new: b"bob" };
/// assert_eq!(Command::parse(b"Update:user:alice:bob"), Ok(Command::from(write)));
/// assert_eq!(Reply::parse(b":update:user:alice:bob"), Ok(Reply::Change(write)));
/// assert_eq!(write.key(), b"user");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Write<'a> {
    /// `Put:key:value` appends value to the key's list.
    Put {
        /// Not empty; no `:`.
        key: &'a [u8],
        /// May be empty, may hold colons.
        value: &'a [u8],
    },
    /// `Delete:key` removes the key and all its values.
    Delete {
        /// Not empty; no `:`.
        key: &'a [u8],
    },
    /// `Update:key:old:new` replaces the first value equal to old, in place; it appends new if there
    /// is none.
    Update {
        /// Not empty; no `:`.
        key: &'a [u8],
        /// May be empty; no `:`.
        old: &'a [u8],
        /// May be empty, may hold colons.
        new: &'a [u8],
    },
    /// `Set:key:value` makes this value the only one of the key's list, in one step.
    Set {
        /// Not empty; no `:`.
        key: &'a [u8],
        /// May be empty, may hold colons.
        value: &'a [u8],
    },
    /// `Remove:key:value` removes the first value equal to value, if there is one. A key without values
    /// is gone.
    Remove {
        /// Not empty; no `:`.
        key: &'a [u8],
        /// May be empty, may hold colons.
        value: &'a [u8],
    },
}

impl<'a> Command<'a> {
    /// Reads one line, without its ending. It is pure and allocates nothing.
    ///
    /// The line must hold no LF; [`LineDecoder`](super::LineDecoder) cuts at every one.
    ///
    /// ```
    /// use keywire::protocol::{Command, ParseError, Write};
    ///
    /// let command = Command::parse(b"Update:user:alice:a:b")?;
    /// assert_eq!(command, Write::Update { key: b"user", old: b"alice", new: b"a:b" }.into());
    /// assert_eq!(Command::parse(b"Get:"), Err(ParseError::EmptyKey));
    /// # Ok::<(), ParseError>(())
    /// ```
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        // The most frequent words first.
        let operation = if let Some(rest) = line.strip_prefix(b"Get:") {
            Operation::Get {
                key: single_key(rest)?,
            }
        } else if let Some(rest) = line.strip_prefix(b"Put:") {
            let (key, value) = key_and_rest(rest)?;
            Operation::Write(Write::Put { key, value })
        } else if let Some(rest) = line.strip_prefix(b"Update:") {
            let (key, rest) = key_and_rest(rest)?;
            let (old, new) = split(rest).ok_or(ParseError::MissingField)?;
            Operation::Write(Write::Update { key, old, new })
        } else if let Some(rest) = line.strip_prefix(b"Delete:") {
            Operation::Write(Write::Delete {
                key: single_key(rest)?,
            })
        } else if let Some(rest) = line.strip_prefix(b"Set:") {
            let (key, value) = key_and_rest(rest)?;
            Operation::Write(Write::Set { key, value })
        } else if let Some(rest) = line.strip_prefix(b"Remove:") {
            let (key, value) = key_and_rest(rest)?;
            Operation::Write(Write::Remove { key, value })
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
            b"GetPrefix" => Ok(Command::GetPrefix {
                prefix: single_prefix(field?)?,
            }),
            b"Keys" => Ok(Command::Keys {
                prefix: single_prefix(field?)?,
            }),
            b"Watch" => Ok(Command::Watch(Topic::Key(single_key(field?)?))),
            b"Unwatch" => Ok(Command::Unwatch(Topic::Key(single_key(field?)?))),
            b"WatchPrefix" => Ok(Command::Watch(Topic::Prefix(single_prefix(field?)?))),
            b"UnwatchPrefix" => Ok(Command::Unwatch(Topic::Prefix(single_prefix(field?)?))),
            b"Auth" => Ok(Command::Auth { secret: field? }),
            b"Put" | b"Get" | b"Delete" | b"Update" | b"Set" | b"Remove" => {
                Err(ParseError::MissingField)
            }
            _ => Err(ParseError::UnknownCommand),
        }
    }

    /// Appends the line, its LF included, to `out`. A command that was parsed is encoded to the line
    /// it was parsed from.
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
        self.with_fields(|word, fields| push_fields(out, word, fields));
    }

    /// The command's word, and its fields with their names, in the order of the line.
    fn with_fields<T>(&self, f: impl FnOnce(&str, &[Field<'_>]) -> T) -> T {
        match *self {
            Command::Operation(Operation::Get { key }) => f("Get", &[("key", key)]),
            Command::Operation(Operation::Write(write)) => {
                write.with_fields(|[word, _], fields| f(word, fields))
            }
            Command::Sync { token: None } => f("Sync", &[]),
            Command::Sync { token: Some(token) } => f("Sync", &[("token", token)]),
            Command::GetPrefix { prefix } => f("GetPrefix", &[("prefix", prefix)]),
            Command::Keys { prefix } => f("Keys", &[("prefix", prefix)]),
            Command::Stats => f("Stats", &[]),
            Command::Watch(Topic::Key(key)) => f("Watch", &[("key", key)]),
            Command::Watch(Topic::Prefix(prefix)) => f("WatchPrefix", &[("prefix", prefix)]),
            Command::Unwatch(Topic::Key(key)) => f("Unwatch", &[("key", key)]),
            Command::Unwatch(Topic::Prefix(prefix)) => f("UnwatchPrefix", &[("prefix", prefix)]),
            Command::Auth { secret } => f("Auth", &[("secret", secret)]),
        }
    }
}

impl<'a> Operation<'a> {
    /// The key that is read or written.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Operation::Get { key } => key,
            Operation::Write(write) => write.key(),
        }
    }
}

impl<'a> Write<'a> {
    /// The key that is written.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Write::Put { key, .. }
            | Write::Delete { key }
            | Write::Update { key, .. }
            | Write::Set { key, .. }
            | Write::Remove { key, .. } => key,
        }
    }

    /// Its word as a command and as an event, and its fields with their names, in the order of the
    /// line.
    pub(super) fn with_fields<T>(&self, f: impl FnOnce([&str; 2], &[Field<'_>]) -> T) -> T {
        match *self {
            Write::Put { key, value } => f(["Put", ":put"], &[("key", key), ("value", value)]),
            Write::Delete { key } => f(["Delete", ":delete"], &[("key", key)]),
            Write::Update { key, old, new } => f(
                ["Update", ":update"],
                &[("key", key), ("old", old), ("new", new)],
            ),
            Write::Set { key, value } => f(["Set", ":set"], &[("key", key), ("value", value)]),
            Write::Remove { key, value } => {
                f(["Remove", ":remove"], &[("key", key), ("value", value)])
            }
        }
    }
}

impl<'a> From<Operation<'a>> for Command<'a> {
    fn from(operation: Operation<'a>) -> Self {
        Command::Operation(operation)
    }
}

impl<'a> From<Write<'a>> for Operation<'a> {
    fn from(write: Write<'a>) -> Self {
        Operation::Write(write)
    }
}

impl<'a> From<Write<'a>> for Command<'a> {
    fn from(write: Write<'a>) -> Self {
        Command::Operation(write.into())
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', bytes)?;
    Some((&bytes[..colon], &bytes[colon + 1..]))
}

fn single_key(rest: &[u8]) -> Result<&[u8], ParseError> {
    if rest.is_empty() {
        Err(ParseError::EmptyKey)
    } else if memchr(b':', rest).is_some() {
        Err(ParseError::ExtraField)
    } else {
        Ok(rest)
    }
}

fn single_prefix(rest: &[u8]) -> Result<&[u8], ParseError> {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The code of the `:error:` line.
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
                "no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
                 GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth"
            }
            ParseError::MissingField => {
                "a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
                 Update:key:old:new, Set:key:value, Remove:key:value, GetPrefix:prefix, Keys:prefix, \
                 Watch:key, WatchPrefix:prefix and Auth:secret"
            }
            ParseError::EmptyKey => "the key is empty",
            ParseError::ExtraField => {
                "a colon too many; Get, Delete and Watch take a key and GetPrefix, Keys and WatchPrefix a \
                 prefix, which hold none, and Stats takes nothing"
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
            // Not even the length of a secret.
            Command::Auth { .. } => f.write_str("Auth"),
            _ => self.with_fields(|word, fields| debug_fields(f, word, fields)),
        }
    }
}

impl fmt::Debug for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Command::Operation(*self).fmt(f)
    }
}

impl fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_fields(|[word, _], fields| debug_fields(f, word, fields))
    }
}

impl fmt::Debug for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Key(key) => f.debug_tuple("Key").field(&Redacted(key)).finish(),
            Topic::Prefix(prefix) => f.debug_tuple("Prefix").field(&Redacted(prefix)).finish(),
        }
    }
}
