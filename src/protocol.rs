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
//! | `Update:key:old:new` | replaces the first value equal to old by new, in place; appends new where there is none | none |
//! | `Sync` or `Sync:token` | a fence | `:sync:DROPPED:token` |
//! | `Stats` | reads the counters | `:stats:active=N dropped=N ...` |
//! | `Watch:key` | from here on, tells of every change of the key | `:watch:key` |
//! | `WatchPrefix:prefix` | the same for every key that begins so; an empty prefix is all keys | `:watchprefix:prefix` |
//! | `Unwatch:key`, `UnwatchPrefix:prefix` | ends what a watch of the same began | none |
//! | `Auth:secret` | asks to be let in, where the server wants a secret; elsewhere any will do | none |
//!
//! ```text
//! command = "Put:" key ":" value
//!         | "Get:" key
//!         | "Delete:" key
//!         | "Update:" key ":" old ":" new
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
//! A key is never empty, so a data line never begins with a colon. A line that does is the server
//! speaking of the connection itself, a *control line*: the reply to `Sync` or `Stats`, or
//! `:error:LINE:CODE:words for a person`. LINE is the 1-based number of the line that was refused,
//! counting every line of the connection, blank ones too, or 0 where no line is to blame.
//! [`Code`] lists the codes.
//!
//! The wire can grow. A client ignores a control line of a kind that it does not know, wherever it
//! comes, also between the lines of a reply. It takes an error code that it does not know as an
//! error of that line. Neither ends its connection. A line that is known and malformed may.
//!
//! At its shutdown, a server tells `:error:0:closing:...` as the last line of every connection that
//! has sent a `Sync`, a `Stats`, a `Watch` or an `Auth`, unless a line of it was refused with
//! `closing` before. Other connections just end: a client of only the first four commands, which
//! sends them correctly, never sees a control line.
//!
//! One thing ends a connection at once: an HTTP request line or a `Host:` line before its first
//! valid command, since any web page can send such bytes to a port of its reader's machine. It is
//! answered with one `malformed`, and nothing behind it is applied. The same goes for a connection
//! that begins with a TLS handshake, at a port that does not speak TLS.
//!
//! Changes of what a connection watches come as control lines too, in the order applied:
//! `:put:key:value`, `:update:key:old:new`, `:delete:key`. A change is a write that was applied,
//! whoever sent it; also a `Delete` of a key that had no values. One that matches several watches
//! comes once. Their place among the replies tells what they came before: a `Get` after a `Watch`
//! gives a snapshot, in which every change told before it is contained and none told after.
//! Changes are the only control lines that can be lost: a connection that does not keep up is told
//! how many it missed, `:missed:N`, before the next change. Where a connection's input ends, its
//! watches do.
//!
//! Where the server wants a secret, a connection may do nothing before it has said it. A `Sync`
//! behind the `Auth` tells that it was right; until then every line is answered `unauthorized`, and
//! the third such line is the last.
//!
//! The modules follow the bytes: [`LineDecoder`] cuts what was read into lines, [`Command::parse`] reads
//! a line, and [`Reply`] is what comes back. All of it is pure: no I/O, no clock, no executor.
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
mod reply;

use std::fmt;

pub use command::{Command, Operation, ParseError, Topic, Write};
pub use lines::{LineBlock, LineDecoder, LineTooLong};
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
