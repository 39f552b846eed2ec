//! What things are called in the cluster, and the commands that use these names.
//!
//! | name | what it is |
//! |---|---|
//! | `PREFIX{BUCKET}:KEY` | the list of a key |
//! | `PREFIX{BUCKET}#seq` | the number of the bucket's last write |
//! | `PREFIX{BUCKET}#ch` | the shard channel on which its writes are published |

use std::hash::{BuildHasher as _, RandomState};

use super::{job::script_command, resp, slots::BUCKETS};
use crate::protocol::Operation;

/// The script that every command but a lone `Get` is.
pub(super) const SCRIPT: &str = include_str!("script.lua");

pub(super) struct Layout {
    /// `PREFIX{BUCKET}` of each bucket.
    bases: Vec<Box<[u8]>>,
    /// The script's name: its SHA1 in hexadecimal, as a node has given it.
    script: Box<[u8]>,
    hasher: RandomState,
}

impl Layout {
    pub(super) fn new(prefix: &[u8], script: &[u8]) -> Self {
        let base = |bucket: u16| {
            let tag = format!("{{{bucket}}}");
            [prefix, tag.as_bytes()].concat().into_boxed_slice()
        };
        Self {
            bases: (0..BUCKETS).map(base).collect(),
            script: script.into(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn base(&self, bucket: u16) -> &[u8] {
        &self.bases[usize::from(bucket)]
    }

    /// The key of a list of this bucket, from its name.
    pub(super) fn key<'a>(&self, bucket: u16, name: &'a [u8]) -> Option<&'a [u8]> {
        name.strip_prefix(self.base(bucket))?.strip_prefix(b":")
    }

    pub(super) fn push_subscribe(&self, out: &mut Vec<u8>, bucket: u16) {
        self.push_on_base(out, b"SSUBSCRIBE", bucket, b"#ch");
    }

    pub(super) fn push_unsubscribe(&self, out: &mut Vec<u8>, bucket: u16) {
        self.push_on_base(out, b"SUNSUBSCRIBE", bucket, b"#ch");
    }

    /// Asks for the bucket's number.
    pub(super) fn push_number(&self, out: &mut Vec<u8>, bucket: u16) {
        self.push_on_base(out, b"GET", bucket, b"#seq");
    }

    fn push_on_base(&self, out: &mut Vec<u8>, command: &[u8], bucket: u16, end: &[u8]) {
        resp::push_array(out, 2);
        resp::push_argument(out, command);
        resp::push_parts(out, &[self.base(bucket), end]);
    }

    /// The bucket of a shard channel.
    pub(super) fn bucket_of_channel(&self, channel: &[u8]) -> Option<u16> {
        let name = channel.strip_suffix(b"}#ch")?;
        let digits = memchr::memrchr(b'{', name).and_then(|at| name.get(at + 1..))?;
        let bucket = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let base = self.bases.get(usize::from(bucket))?;
        (channel.strip_suffix(b"#ch")? == &**base).then_some(bucket)
    }

    pub(super) fn push_get(&self, out: &mut Vec<u8>, bucket: u16, key: &[u8]) {
        out.extend_from_slice(b"*4\r\n$6\r\nLRANGE\r\n");
        resp::push_parts(out, &[self.base(bucket), b":", key]);
        out.extend_from_slice(b"$1\r\n0\r\n$2\r\n-1\r\n");
    }

    pub(super) fn push_script(
        &self,
        out: &mut Vec<u8>,
        bucket: u16,
        commands: &[Operation<'_>],
        max_values: usize,
    ) {
        let arguments = commands.iter().map(|command| {
            let (_, arguments) = script_command(command);
            1 + arguments.iter().flatten().count()
        });
        let base = self.base(bucket);
        let keys = 1 + commands.len();
        resp::push_array(out, 3 + keys + 1 + arguments.sum::<usize>());
        resp::push_argument(out, b"EVALSHA");
        resp::push_argument(out, &self.script);
        push_number(out, keys);
        resp::push_parts(out, &[base, b"#seq"]);
        for command in commands {
            resp::push_parts(out, &[base, b":", command.key()]);
        }
        push_number(
            out,
            if max_values == usize::MAX {
                0
            } else {
                max_values
            },
        );
        for command in commands {
            let (letter, arguments) = script_command(command);
            resp::push_argument(out, letter);
            for argument in arguments.into_iter().flatten() {
                resp::push_argument(out, argument);
            }
        }
    }
}

fn push_number(out: &mut Vec<u8>, number: usize) {
    match number {
        0..=9 => resp::push_argument(out, &[b'0' + number as u8]),
        _ => resp::push_argument(out, number.to_string().as_bytes()),
    }
}
