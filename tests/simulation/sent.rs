//! What a client sent, and what has to come of it.

use crate::{
    admission::SECRET,
    history::{base, tag_of},
    script::MAX_LINE,
};

/// A line that a client sent, by what has to come of it.
#[derive(Clone, Debug)]
pub(crate) enum Sent {
    /// A command for the store, by its number.
    Command(usize),
    /// A walk over a prefix, which stands here without its tag.
    Walk {
        number: usize,
        prefix: Vec<u8>,
        counts: bool,
    },
    Sync(Vec<u8>),
    Stats,
    /// What is watched: the key, or the prefix where `true`.
    Watch(Vec<u8>, bool),
    Unwatch(Vec<u8>, bool),
    /// It is answered with this code.
    Wrong(&'static str),
    /// The secret, where it has to be said at all.
    Auth,
    Blank,
    /// The server had ceased to listen.
    Unheard,
}

impl Sent {
    /// On purpose not by the server's own parser.
    ///
    /// Where commands have no tags, they have the numbers of their lines.
    pub(crate) fn of(line: &[u8], secret: bool, number: Option<usize>) -> Self {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Sent::Blank;
        }
        if line.len() > MAX_LINE {
            return Sent::Wrong("too-long");
        }
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let word = parts.next().unwrap_or_default();
        let rest = parts.next().unwrap_or_default();
        let command = || {
            if let Some(number) = number {
                return Sent::Command(number);
            }
            let mut tags = rest.split(|&byte| byte == b':').filter_map(tag_of);
            // What is removed has the tag of the command that brought it.
            let tag = match word {
                b"Remove" => tags.next(),
                _ => tags.next_back(),
            };
            let (_, number) = tag.expect("a tag");
            Sent::Command(number)
        };
        let fields = rest.split(|&byte| byte == b':').count();
        match (word, fields) {
            (b"Put" | b"Set" | b"Remove", 2) | (b"Update", 3) | (b"Get" | b"Delete", 1) => {
                command()
            }
            (b"GetPrefix" | b"Keys", 1) if line != word => {
                let number = number.unwrap_or_else(|| tag_of(rest).expect("a tag").1);
                let prefix = base(rest).to_vec();
                let counts = word == b"Keys";
                Sent::Walk {
                    number,
                    prefix,
                    counts,
                }
            }
            (b"Sync", _) => Sent::Sync(rest.to_vec()),
            (b"Stats", _) => Sent::Stats,
            (b"Auth", _) if secret && rest != SECRET.as_bytes() => Sent::Wrong("unauthorized"),
            (b"Auth", _) => Sent::Auth,
            (b"WatchPrefix", 1) => Sent::Watch(rest.to_vec(), true),
            (b"UnwatchPrefix", 1) => Sent::Unwatch(rest.to_vec(), true),
            (b"Watch", 1) if !rest.is_empty() => Sent::Watch(rest.to_vec(), false),
            (b"Unwatch", 1) if !rest.is_empty() => Sent::Unwatch(rest.to_vec(), false),
            (b"Put" | b"Watch" | b"GetPrefix" | b"Keys", _) => Sent::Wrong("malformed"),
            _ => Sent::Wrong("unknown"),
        }
    }
}
