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
//!
//! ```text
//! command = "Put:" key ":" value
//!         | "Get:" key
//!         | "Delete:" key
//!         | "Update:" key ":" old ":" new
//!         | "Sync" [ ":" token ]
//!         | "Stats"
//! key     = 1*( any byte but ":" and LF )
//! old     = *( any byte but ":" and LF )
//! value, new, token = *( any byte but LF )
//! ```
//!
//! A key is never empty, so a data line never begins with a colon. A line that does is the server
//! speaking of the connection itself, a *control line*: the reply to `Sync` or `Stats`, or
//! `:error:LINE:CODE:words for a person`. LINE is the 1-based number of the line that was refused,
//! counting every line of the connection, blank ones too, or 0 where no line is to blame.
//! [`Code`] lists the codes.
//!
//! The modules follow the bytes: [`Lines`] cuts what was read into lines, [`Command::parse`] reads
//! a line, and [`Reply`] is what comes back. All of it is pure: no I/O, no clock, no executor.
//!
//! ```
//! use keywire::protocol::{Command, Lines, Operation};
//!
//! let mut lines = Lines::new(1024);
//! assert!(lines.push(b"Put:user:al").is_empty()); // no whole line yet
//! let block = lines.push(b"ice\r\nGet:us"); // one line ends here, another begins
//! let line = block.iter().next().unwrap().unwrap();
//! assert_eq!(
//!     Command::parse(line).unwrap(),
//!     Command::Operation(Operation::Put { key: b"user", value: b"alice" }),
//! );
//! ```

mod command;
mod lines;
mod reply;

pub use command::{Command, Operation, ParseError};
pub use lines::{Block, Lines, TooLong};
pub use reply::{Code, Reply, ReplyError};
pub(crate) use reply::{push_error, push_sync, push_value};

/// Shows a payload by its length alone: keys and values stay out of logs.
struct Hidden<'a>(&'a [u8]);

impl std::fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}
