//! What the replies in line mode say of the conversation.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
};

/// The longest beginning of a control line that is looked at.
const HEAD: usize = 128;

/// Passes the server's lines on, all but the reply to a `Sync` of our own behind the last command.
/// When that has come, nothing is owed.
pub(crate) struct Replies {
    /// What nobody else puts behind a `Sync`.
    token: String,
    /// The beginning of a control line, until there is enough of it.
    head: Vec<u8>,
    /// Whether the beginning of a line has been passed on, and not its end.
    within: bool,
    complete: bool,
    refused: u64,
    dropped: u64,
}

impl Replies {
    pub(crate) fn new() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self {
            token: format!("end-{random:016x}"),
            head: Vec::with_capacity(HEAD),
            within: false,
            complete: false,
            refused: 0,
            dropped: 0,
        }
    }

    /// The command behind the last.
    pub(crate) fn fence(&self) -> String {
        format!("Sync:{}\n", self.token)
    }

    /// Gives what is to be passed on of these bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        while let Some(&first) = bytes.first() {
            if self.head.is_empty() && first != b':' {
                self.within = true;
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let mut taken = end.map_or(bytes.len(), |end| end + 1);
            if self.within {
                out.extend_from_slice(&bytes[..taken]);
                self.within = end.is_none();
            } else {
                taken = taken.min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..taken]);
                let whole = self.head.ends_with(b"\n");
                if whole || self.head.len() == HEAD {
                    if !self.note() {
                        out.extend_from_slice(&self.head);
                    }
                    self.head.clear();
                    self.within = !whole;
                }
            }
            bytes = &bytes[taken..];
        }
        out
    }

    /// Counts a control line. Tells whether it is the reply to our own `Sync`.
    fn note(&mut self) -> bool {
        if self.head.starts_with(b":error:") {
            self.refused += 1;
        }
        let Some(reply) = self.head.strip_prefix(b":sync:") else {
            return false;
        };
        let mut parts = reply.splitn(2, |&byte| byte == b':');
        let number = parts
            .next()
            .and_then(|number| std::str::from_utf8(number).ok());
        self.dropped += number
            .and_then(|number| number.trim_end().parse().ok())
            .unwrap_or(0);
        let token = parts.next().and_then(|token| token.strip_suffix(b"\n"));
        let ours = token == Some(self.token.as_bytes());
        self.complete |= ours;
        ours
    }

    /// What is left where the connection ends within a line.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.within |= !self.head.is_empty();
        std::mem::take(&mut self.head)
    }

    /// Whether every reply is in.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the last line has no end.
    pub(crate) fn is_cut(&self) -> bool {
        self.within
    }

    /// What whoever waits for more than the exit has to know.
    pub(crate) fn faults(&self) -> Vec<String> {
        let number = |number, what: &str| match number {
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let mut faults = Vec::new();
        if self.is_cut() {
            faults.push("the last line is cut".into());
        }
        if self.refused > 0 {
            faults.push(format!("the server sent {}", number(self.refused, "error")));
        }
        if self.dropped > 0 {
            let lines = number(self.dropped, "reply line");
            faults.push(format!("the server dropped {lines}"));
        }
        faults
    }
}
