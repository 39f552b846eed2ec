//! The wire: lines in, lines out.
//!
//! A line is any bytes ended by a line feed (LF). One carriage return (CR) before the LF is
//! stripped. Nothing has to be UTF-8. A blank line is ignored. Command words are case-sensitive.
//!
//! | the client sends | what it does | reply lines |
//! |---|---|---|
//! | `Put:key:value` | appends value to the key's list | none |
//! | `Get:key` | reads the key's list | one `key:value` a value, oldest first; none if the key has none |
//! | `Delete:key` | removes the key and all its values | none |
//! | `Update:key:old:new` | replaces the first value equal to old by new, in place; appends new if there is none | none |
//! | `Set:key:value` | makes value the key's only one, in one step | none |
//! | `Remove:key:value` | removes the first value equal to value, if there is one; a key without values is gone | none |
//! | `GetPrefix:prefix` | reads every key that begins with the prefix; an empty prefix is all keys | one `key:value` a value, a key's lines together |
//! | `Keys:prefix` | lists the same keys | one `key:N` a key, N the number of its values |
//! | `Sync` or `Sync:token` | a fence | `:sync:DROPPED:token` |
//! | `Stats` | reads the counters | `:stats:active=N dropped=N ...` |
//! | `Watch:key` | every later change of the key comes as an event | `:watch:key`, then events |
//! | `WatchPrefix:prefix` | the same for every key that begins with the prefix; an empty prefix is all keys | `:watchprefix:prefix`, then events |
//! | `Unwatch:key`, `UnwatchPrefix:prefix` | ends the watch of the same key or prefix | none |
//! | `Auth:secret` | authenticates, if the server wants a secret; if not, any secret will do | none |
//!
//! ```text
//! command = "Put:" key ":" value
//!         | "Get:" key
//!         | "Delete:" key
//!         | "Update:" key ":" old ":" new
//!         | ( "Set" | "Remove" ) ":" key ":" value
//!         | ( "GetPrefix" | "Keys" ) ":" prefix
//!         | "Sync" [ ":" token ]
//!         | "Stats"
//!         | ( "Watch" | "Unwatch" ) ":" key
//!         | ( "WatchPrefix" | "UnwatchPrefix" ) ":" prefix
//!         | "Auth:" secret
//! key     = 1*( any byte but ":" and LF )
//! old, prefix = *( any byte but ":" and LF )
//! value, new, token, secret = *( any byte but LF )
//! ```
//!
//! A key is never empty, so a data line never begins with a colon. A line that does is a *control
//! line*: a reply to `Sync`, `Stats` or a watch, an event, or `:error:LINE:CODE:message`. LINE is the
//! 1-based number of the line that was refused, counting every line of the connection, blank ones
//! too, or 0 if no line is to blame. [`Code`] lists the codes.
//!
//! # Growth
//!
//! The wire can grow. A client ignores a control line of a kind that it does not know, wherever it
//! comes, also between the lines of a reply. It takes an error code that it does not know as an
//! error of that line. Neither ends its connection. A control line of a known kind that is malformed
//! may end it.
//!
//! # The end of a connection
//!
//! At its shutdown, a server sends `:error:0:closing:...` as the last line of every connection that
//! has sent a `Sync`, a `Stats`, a `Watch` or an `Auth`, unless a line of it was refused with
//! `closing` before. Other connections end without it. A client that sends only reads and writes,
//! correctly, sees a control line only if a limit is reached, the store fails, or the server refuses a
//! line because it shuts down.
//!
//! An HTTP request line or a `Host:` line before the first valid command ends the connection at once,
//! since any web page can send such bytes to a port of its reader's machine. It is answered with one
//! `malformed`, and nothing behind it is applied. The same goes for a connection that begins with a
//! TLS handshake, at a port that does not speak TLS.
//!
//! # Events
//!
//! Changes of what a connection watches come as control lines too, in the order applied:
//! `:put:key:value`, `:update:key:old:new`, `:delete:key`, `:set:key:value`, `:remove:key:value`. A
//! change is a write that was applied, whoever sent it, also if it changed nothing, such as a `Delete`
//! or a `Remove` of what was not there. One that matches several watches comes once. Their place among
//! the replies counts: a `Get` after a `Watch` gives a snapshot, which contains every change that came
//! before it and none that comes after. Changes are the only control lines that can be lost: a
//! connection that does not keep up gets their number, `:missed:N`, before the next change. `:missed:0`
//! says that the store itself has missed an unknown number of changes. When a connection's input ends,
//! its watches end.
//!
//! # Reading a prefix
//!
//! `GetPrefix` and `Keys` go from key to key, and other clients are served between two keys. So their
//! reply is not the state of one moment:
//!
//! - A key that is there during the whole walk comes once. One that comes or goes meanwhile comes at
//!   most once, with its list at that moment. The order of the keys is not promised.
//! - After a `WatchPrefix` of the same prefix the reply is a snapshot *key by key*: the lines of a key
//!   contain every change of it that came before them and none that comes after. Events come between
//!   keys, never between the lines of one. If a `:missed:N` comes meanwhile, the snapshot is of no use.
//! - The lines of one key are queued or dropped as a whole. A key whose lines are too long, a failure of
//!   the store, or a shutdown ends the walk with one `:error:LINE:...`; what came before stands.
//! - The later lines of the connection wait for the end of the walk.
//!
//! Without the colon behind the word, the line is malformed: all keys are `GetPrefix:` and `Keys:`.
//!
//! A pipeline is not a transaction: between any two commands of one client, those of others may be
//! applied.
//!
//! # Authentication
//!
//! If the server wants a secret, it refuses every line before the right `Auth` with `unauthorized`; the
//! third such line ends the connection. The reply to a `Sync` behind the `Auth` confirms the secret.
//!
//! # The modules
//!
//! They follow the bytes: [`LineDecoder`] cuts reads into lines, [`Command::parse`] reads a line, and
//! [`Reply`] is a line that comes back. All of it is pure: no I/O, no clock, no executor.
//!
//! ```
//! use keywire::protocol::{Command, LineDecoder, Write};
//!
//! let mut lines = LineDecoder::new(1024);
//! assert!(lines.push(b"Put:user:al").is_empty()); // no whole line yet
//! let block = lines.push(b"ice\r\nGet:us"); // one line ends here, another begins
//! let line = block.iter().next().unwrap().unwrap();
//! let put = Write::Put { key: b"user", value: b"alice" };
//! assert_eq!(Command::parse(line), Ok(put.into()));
//! ```

mod command;
mod lines;
mod missed;
mod reply;

use std::fmt;

pub use command::{Command, Operation, ParseError, Topic, Write};
pub use lines::{LineBlock, LineDecoder, LineTooLong};
pub(crate) use missed::MissedCount;
pub use reply::{Code, Reply, ReplyError};
pub(crate) use reply::{push_change, push_error, push_missed, push_sync, push_value, push_watch};

/// Shows a payload by its length alone: keys and values stay out of logs.
struct Redacted<'a>(&'a [u8]);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// A field of a line and its name.
type Field<'a> = (&'static str, &'a [u8]);

/// Shows a word and the lengths of its fields.
fn debug_fields(f: &mut fmt::Formatter<'_>, word: &str, fields: &[Field<'_>]) -> fmt::Result {
    let mut out = f.debug_struct(word);
    for (name, bytes) in fields {
        out.field(name, &Redacted(bytes));
    }
    out.finish()
}

/// Appends the line of a word and its fields.
fn push_fields(out: &mut Vec<u8>, word: &str, fields: &[Field<'_>]) {
    out.extend_from_slice(word.as_bytes());
    for (_, bytes) in fields {
        out.push(b':');
        out.extend_from_slice(bytes);
    }
    out.push(b'\n');
}
