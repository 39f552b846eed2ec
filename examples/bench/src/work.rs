//! The work: what the operations say to the server, and what it has to answer.
//!
//! All values are the same text, and a write replaces a value by its like: `Update:key:v:v`, or
//! `SET key v`. (With `--set` it is `Set:key:v`.) So an update always finds what it replaces and no list grows, however many clients
//! write to a key, while the server has the same work as with any other value. And so each reply is
//! known to the last byte before it is asked for: replies are compared, not parsed.
//!
//! A batch is not stored anywhere. The random generator that chose its operations is copied first,
//! and the copy chooses them once more when the replies come.

mod replies;

use std::iter;

use clap::value_parser;
use fastrand::Rng;

pub(crate) use self::replies::{Replies, wrong};

/// The length of every key.
const KEY: usize = 11;
type Key = [u8; KEY];

/// What the clients ask for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Mix {
    /// Keys in use
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = value_parser!(u32).range(1..=100_000_000))]
    pub(crate) keys: u32,
    /// Values a key has, all of which a read answers
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = value_parser!(u32).range(1..))]
    pub(crate) list: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(crate) value_size: usize,
    /// How many operations in a hundred are writes
    #[arg(long, value_name = "PERCENT", default_value_t = 10,
          value_parser = value_parser!(u32).range(0..=100))]
    pub(crate) writes: u32,
    /// Write by Set, which is what Redis's SET is, instead of Update
    #[arg(long)]
    pub(crate) set: bool,
}

impl Mix {
    /// 10,000 keys with a value of 16 bytes each, nine reads to a write.
    pub(crate) const USUAL: Mix = Mix {
        keys: 10_000,
        list: 1,
        value_size: 16,
        writes: 10,
        set: false,
    };

    /// The same, written by `Set`. (An update has its value twice, and so has the log on the disk.)
    pub(crate) const SET: Mix = Mix {
        set: true,
        ..Mix::USUAL
    };

    fn value(&self) -> String {
        (b'a'..=b'z')
            .cycle()
            .take(self.value_size)
            .map(char::from)
            .collect()
    }
}

/// The operations in a server's own words.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    chooser: Chooser,
    read: Operation,
    write: Operation,
    /// Gives a key its values and takes away those it had.
    load: Operation,
    /// Ends a batch whose last operation has no reply of its own. It is not counted.
    fence: Operation,
}

impl Work {
    pub(crate) fn keywire(mix: &Mix) -> Work {
        let value = mix.value();
        let put = format!(":{value}\nPut:");
        let load = iter::once("Delete:").chain(iter::once("\nPut:"));
        let load = load.chain(iter::repeat_n(&*put, mix.list as usize - 1));
        let last = format!(":{value}\n");
        Work {
            chooser: Chooser::new(mix),
            read: Operation::new(
                ["Get:", "\n"],
                Reply::lines(mix.list, &format!(":{value}\n")),
            ),
            write: match mix.set {
                true => Operation::new(["Set:", &last], Reply::none()),
                false => Operation::new(["Update:", &format!(":{value}{last}")], Reply::none()),
            },
            load: Operation::new(load.chain(iter::once(&*last)), Reply::none()),
            fence: Operation::new(["Sync\n"], Reply::text(":sync:0:\n")),
        }
    }

    pub(crate) fn redis(mix: &Mix) -> Work {
        let value = mix.value();
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        // A request whose second word is the key.
        let request = |command: &str, rest: &[&str]| {
            let head = format!("*{}\r\n{}${KEY}\r\n", 2 + rest.len(), bulk(command));
            let rest: String = rest.iter().map(|text| bulk(text)).collect();
            [head, format!("\r\n{rest}")]
        };
        let ok = || Reply::text("+OK\r\n");
        let chooser = Chooser::new(mix);
        let fence = Operation::new([""; 0], Reply::none());
        if mix.list == 1 {
            let write = Operation::new(request("SET", &[&value]), ok());
            return Work {
                chooser,
                read: Operation::new(request("GET", &[]), Reply::text(&bulk(&value))),
                load: write.clone(),
                write,
                fence,
            };
        }
        // DEL tells whether there was something to delete; the SET makes that certain.
        let [set, set_end] = request("SET", &[""]);
        let [del, del_end] = request("DEL", &[]);
        let [push, push_end] = request("RPUSH", &vec![&*value; mix.list as usize]);
        let load = [set, set_end + &del, del_end + &push, push_end];
        let loaded = format!("+OK\r\n:1\r\n:{}\r\n", mix.list);
        let values = format!(
            "*{}\r\n{}",
            mix.list,
            bulk(&value).repeat(mix.list as usize)
        );
        Work {
            chooser,
            read: Operation::new(request("LRANGE", &["0", "-1"]), Reply::text(&values)),
            write: Operation::new(request("LSET", &["0", &value]), ok()),
            load: Operation::new(load, Reply::text(&loaded)),
            fence,
        }
    }

    /// The same keys and values, and nothing but writes.
    pub(crate) fn all_writes(&self) -> Work {
        let mut work = self.clone();
        work.chooser.writes = 1 << 32;
        work
    }

    /// Appends a batch of requests.
    pub(crate) fn ask(&self, depth: u32, rng: &mut Rng, out: &mut Vec<u8>) {
        let mut wrote = false;
        for _ in 0..depth {
            let (key, write) = self.chooser.next(rng);
            let operation = if write { &self.write } else { &self.read };
            operation.ask(&key, out);
            wrote = write;
        }
        if wrote {
            self.fence.ask(&self.chooser.key(0), out);
        }
    }

    pub(crate) fn keys(&self) -> u32 {
        self.chooser.keys
    }

    /// Appends what loads a key, and its replies.
    pub(crate) fn load(&self, key: u32, requests: &mut Vec<u8>, replies: &mut Vec<u8>) {
        let key = self.chooser.key(key);
        self.load.ask(&key, requests);
        self.load.reply.push(&key, replies);
    }

    /// Appends a read of a key, and its replies.
    pub(crate) fn read(&self, key: u32, requests: &mut Vec<u8>, replies: &mut Vec<u8>) {
        let key = self.chooser.key(key);
        self.read.ask(&key, requests);
        self.read.reply.push(&key, replies);
    }

    /// Appends what proves that all that was loaded has arrived, and its replies.
    pub(crate) fn fence(&self, requests: &mut Vec<u8>, replies: &mut Vec<u8>) {
        let key = self.chooser.key(0);
        self.fence.ask(&key, requests);
        self.fence.reply.push(&key, replies);
    }
}

/// Chooses an operation and its key.
#[derive(Clone, Debug)]
struct Chooser {
    keys: u32,
    /// Of all 2^32 numbers, those below this one mean a write.
    writes: u64,
    /// Four digits at a time. The digits of all keys would not fit into the processor's caches.
    digits: Vec<[u8; 4]>,
}

impl Chooser {
    fn new(mix: &Mix) -> Chooser {
        let digit = |number: u32, unit: u32| b'0' + (number / unit % 10) as u8;
        Chooser {
            keys: mix.keys,
            writes: (u64::from(mix.writes) << 32) / 100,
            digits: (0..10_000)
                .map(|number| [1000, 100, 10, 1].map(|unit| digit(number, unit)))
                .collect(),
        }
    }

    fn next(&self, rng: &mut Rng) -> (Key, bool) {
        let bits = rng.u64(..);
        let key = ((bits >> 32) * u64::from(self.keys)) >> 32;
        (self.key(key as u32), bits & 0xffff_ffff < self.writes)
    }

    fn key(&self, number: u32) -> Key {
        let mut key = *b"key00000000";
        key[3..7].copy_from_slice(&self.digits[(number / 10_000) as usize]);
        key[7..].copy_from_slice(&self.digits[(number % 10_000) as usize]);
        key
    }
}

#[derive(Clone, Debug)]
struct Operation {
    head: Vec<u8>,
    /// The key stands before each of these.
    rest: Vec<Vec<u8>>,
    reply: Reply,
}

impl Operation {
    fn new<T: Into<String>>(text: impl IntoIterator<Item = T>, reply: Reply) -> Operation {
        let mut parts = text.into_iter().map(|part| part.into().into_bytes());
        Operation {
            head: parts.next().unwrap_or_default(),
            rest: parts.collect(),
            reply,
        }
    }

    fn ask(&self, key: &Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        for part in &self.rest {
            out.extend_from_slice(key);
            out.extend_from_slice(part);
        }
    }
}

/// A text that comes some times over, each time after the key or not.
#[derive(Clone, Debug)]
struct Reply {
    times: u32,
    key: bool,
    text: Vec<u8>,
}

impl Reply {
    fn none() -> Reply {
        Reply {
            times: 0,
            key: false,
            text: Vec::new(),
        }
    }

    fn text(text: &str) -> Reply {
        Reply {
            times: 1,
            key: false,
            text: text.into(),
        }
    }

    fn lines(times: u32, rest: &str) -> Reply {
        Reply {
            times,
            key: true,
            text: rest.into(),
        }
    }

    fn push(&self, key: &Key, out: &mut Vec<u8>) {
        for _ in 0..self.times {
            out.extend_from_slice(if self.key { key } else { &[] });
            out.extend_from_slice(&self.text);
        }
    }
}
