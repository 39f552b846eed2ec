//! Compares what comes back with what has to come, wherever the reads cut it.

use std::fmt::Write as _;

use fastrand::Rng;

use super::{KEY, Key, Reply, Work};

/// The replies to one batch, and how far they have come.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Chooses again what the batch asked for.
    rng: Rng,
    /// Operations whose replies have not begun.
    left: u32,
    /// What the current reply answers, and its key.
    to: To,
    key: Key,
    /// How often its text is yet to come, the current time included.
    times: u32,
    /// How much of the current time has come.
    offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    Read,
    Write,
    Fence,
}

impl Replies {
    /// Nothing has to come.
    pub(crate) fn none() -> Replies {
        Replies {
            rng: Rng::with_seed(0),
            left: 0,
            to: To::Fence,
            key: [0; KEY],
            times: 0,
            offset: 0,
        }
    }

    /// The replies to the batch that [`Work::ask`] makes of the same generator.
    pub(crate) fn of_batch(depth: u32, rng: &Rng) -> Replies {
        Replies {
            rng: rng.clone(),
            left: depth,
            to: To::Read,
            ..Replies::none()
        }
    }

    /// Takes what has come, and tells whether that was the last of it.
    pub(crate) fn take(&mut self, work: &Work, mut data: &[u8]) -> Result<bool, String> {
        loop {
            if self.times == 0 && !self.next(work) {
                if data.is_empty() {
                    return Ok(true);
                }
                return Err(wrong(&[], 0, data));
            }
            if data.is_empty() {
                return Ok(false);
            }
            let reply = self.reply(work);
            let key: &[u8] = if reply.key { &self.key } else { &[] };
            let length = key.len() + reply.text.len();

            // Nearly always the whole of it is there.
            let come = (length - self.offset).min(data.len());
            let right = if come == length {
                data[..key.len()] == *key && data[key.len()..length] == *reply.text
            } else {
                let end = self.offset + come;
                let split = end.min(key.len()).saturating_sub(self.offset);
                let text = self.offset.max(key.len()) - key.len()..end.max(key.len()) - key.len();
                data[..split] == key[self.offset.min(key.len())..][..split]
                    && data[split..come] == reply.text[text]
            };
            if !right {
                let mut line = Vec::new();
                Reply {
                    times: 1,
                    ..reply.clone()
                }
                .push(&self.key, &mut line);
                return Err(wrong(&line, self.offset, data));
            }
            data = &data[come..];
            self.offset += come;
            if self.offset == length {
                self.offset = 0;
                self.times -= 1;
            }
        }
    }

    /// Goes on to the next reply, if there is one.
    fn next(&mut self, work: &Work) -> bool {
        while self.left > 0 {
            self.left -= 1;
            let (key, write) = work.chooser.next(&mut self.rng);
            self.key = key;
            self.to = if write { To::Write } else { To::Read };
            self.times = self.reply(work).times;
            if self.times > 0 {
                return true;
            }
        }
        if self.to == To::Write {
            self.to = To::Fence;
            self.times = work.fence.reply.times;
        }
        self.times > 0
    }

    fn reply<'a>(&self, work: &'a Work) -> &'a Reply {
        match self.to {
            To::Read => &work.read.reply,
            To::Write => &work.write.reply,
            To::Fence => &work.fence.reply,
        }
    }
}

/// Says what is wrong with `data`, before which the first `at` bytes of `expected` had come.
pub(crate) fn wrong(expected: &[u8], at: usize, data: &[u8]) -> String {
    const SHOWN: usize = 100;
    let (come, to_come) = expected.split_at(at);
    let start = come
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    let line = |rest: &[u8]| {
        let rest = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut line = [&come[start..], rest].concat();
        line.truncate(SHOWN);
        line.trim_ascii_end().escape_ascii().to_string()
    };
    let mut text = format!("got \"{}\"", line(data));
    let _ = match line(to_come).as_str() {
        "" => write!(text, " where nothing had to come"),
        right => write!(text, " instead of \"{right}\""),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Mix;

    fn works() -> impl Iterator<Item = Work> {
        [(1, 16), (1, 0), (3, 5)]
            .into_iter()
            .flat_map(|(list, value_size)| {
                let mix = Mix {
                    keys: 20_000,
                    list,
                    value_size,
                    writes: 50,
                    set: false,
                };
                [Work::keywire(&mix), Work::redis(&mix)]
            })
    }

    /// What a right server answers, by another way than the one tested.
    fn answer(work: &Work, depth: u32, mut rng: Rng) -> Vec<u8> {
        let (mut out, mut last) = (Vec::new(), false);
        for _ in 0..depth {
            let (key, write) = work.chooser.next(&mut rng);
            let operation = if write { &work.write } else { &work.read };
            operation.reply.push(&key, &mut out);
            last = write;
        }
        if last {
            work.fence.reply.push(&work.chooser.key(0), &mut out);
        }
        out
    }

    #[test]
    fn replies_may_be_cut_anywhere() {
        for work in works() {
            for seed in 0..8 {
                let rng = Rng::with_seed(seed);
                let answer = answer(&work, 4, rng.clone());
                for cut in 1..answer.len() {
                    let mut replies = Replies::of_batch(4, &rng);
                    assert_eq!(replies.take(&work, &answer[..cut]), Ok(false));
                    assert_eq!(replies.take(&work, &answer[cut..]), Ok(true));
                    assert_eq!(replies.take(&work, &[]), Ok(true));
                    assert!(replies.take(&work, b"x").is_err());
                }
                let mut replies = Replies::of_batch(4, &rng);
                for (index, byte) in answer.chunks(1).enumerate() {
                    assert_eq!(replies.take(&work, byte), Ok(index + 1 == answer.len()));
                }
            }
        }
    }

    #[test]
    fn any_wrong_byte_is_seen() {
        for work in works() {
            let rng = Rng::with_seed(7);
            let right = answer(&work, 4, rng.clone());
            for at in 0..right.len() {
                let mut bytes = right.clone();
                bytes[at] ^= 1;
                for cut in [0, 1, at, right.len() / 2] {
                    let mut replies = Replies::of_batch(4, &rng);
                    let taken = replies
                        .take(&work, &bytes[..cut])
                        .and_then(|_| replies.take(&work, &bytes[cut..]));
                    assert!(taken.is_err(), "byte {at}, cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn what_was_wrong_is_shown_by_the_line() {
        assert_eq!(
            wrong(b":sync:0:\n", 6, b"3:\nkey"),
            "got \":sync:3:\" instead of \":sync:0:\""
        );
        assert_eq!(
            wrong(b"$2\r\nab\r\n", 5, b"-\r\n"),
            "got \"a-\" instead of \"ab\""
        );
        assert_eq!(
            wrong(b"", 0, b"+OK\r\n"),
            "got \"+OK\" where nothing had to come"
        );
    }
}
