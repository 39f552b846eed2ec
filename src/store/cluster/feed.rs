//! A connection for subscriptions: what was asked on it, and what its messages mean. No I/O.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    layout::Layout,
    resp::{self, Malformed, Reply, Scanner},
};

/// By which the node is asked to speak RESP3, and which history its data has. A replica that takes over begins
/// another one, under a new name, and those that replicate from it take that over. So a node that was a
/// replica meanwhile has another one, though it runs on.
const HELLO: [&[u8]; 2] = [b"HELLO", b"3"];
const INFO: [&[u8]; 2] = [b"INFO", b"replication"];
const HISTORY: &[u8] = b"master_replid:";

/// Before a command on a slot that is moved to the node.
const ASKING: [&[u8]; 1] = [b"ASKING"];

/// Something that the node will reply to, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Auth,
    Hello,
    History,
    Asking,
    Subscribe(u16),
    Unsubscribe(u16),
    Number(u16),
}

/// What a message means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    None,
    Subscribed(u16),
    /// The node has ended the subscription, or can't subscribe to it or give its number.
    Lost(u16),
    /// The bucket is moved, and by now at the node with this address.
    Elsewhere(u16, &'a str),
    Number(u16, u64),
    /// Number and line of a change.
    Change(u16, u64, &'a [u8]),
    /// Numbers before it were perhaps not of the history that is known now.
    OtherHistory,
}

pub(super) struct Feed {
    pub(super) out: Vec<u8>,
    expected: VecDeque<Entry>,
    /// Since when it owes an answer and has given none.
    silent_since: Instant,
    /// The name of the node's history, as last told.
    pub(super) history: Option<Arc<[u8]>>,
    /// Numbers were asked for, and not the history behind them.
    is_asking: bool,
    pub(super) scanner: Scanner,
}

impl Feed {
    pub(super) fn new(auth: Option<&[u8]>, now: Instant) -> Self {
        let mut feed = Self {
            out: Vec::new(),
            expected: VecDeque::new(),
            silent_since: now,
            history: None,
            is_asking: false,
            scanner: Scanner::default(),
        };
        if let Some(auth) = auth {
            feed.out.extend_from_slice(auth);
            feed.expected.push_back(Entry::Auth);
        }
        resp::push_command(&mut feed.out, &HELLO);
        feed.expected.push_back(Entry::Hello);
        resp::push_command(&mut feed.out, &INFO);
        feed.expected.push_back(Entry::History);
        feed
    }

    fn expect(&mut self, entry: Entry, now: Instant) {
        if self.expected.is_empty() {
            self.silent_since = now;
        }
        self.expected.push_back(entry);
    }

    fn ask(&mut self, now: Instant) {
        resp::push_command(&mut self.out, &ASKING);
        self.expect(Entry::Asking, now);
    }

    /// Subscribes to a bucket, and asks for its number behind that. `is_moving`: its slot is being moved to
    /// the node.
    pub(super) fn subscribe(
        &mut self,
        bucket: u16,
        is_moving: bool,
        layout: &Layout,
        now: Instant,
    ) {
        if is_moving {
            self.ask(now);
        }
        layout.push_subscribe(&mut self.out, bucket);
        self.expect(Entry::Subscribe(bucket), now);
        self.ask_number(bucket, is_moving, layout, now);
    }

    pub(super) fn unsubscribe(&mut self, bucket: u16, layout: &Layout, now: Instant) {
        layout.push_unsubscribe(&mut self.out, bucket);
        self.expect(Entry::Unsubscribe(bucket), now);
    }

    pub(super) fn ask_number(
        &mut self,
        bucket: u16,
        is_moving: bool,
        layout: &Layout,
        now: Instant,
    ) {
        if is_moving {
            self.ask(now);
        }
        layout.push_number(&mut self.out, bucket);
        self.expect(Entry::Number(bucket), now);
        self.is_asking = true;
    }

    /// Nothing more is asked for now. The history is: if it is the one from before, all numbers between are of
    /// it.
    pub(super) fn end_questions(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_asking) {
            resp::push_command(&mut self.out, &INFO);
            self.expect(Entry::History, now);
        }
    }

    /// How long it has owed an answer.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        match self.expected.is_empty() {
            true => Duration::ZERO,
            false => now.saturating_duration_since(self.silent_since),
        }
    }

    /// A whole message has come. An error closes the connection.
    pub(super) fn on_message<'a>(
        &mut self,
        message: &'a [u8],
        layout: &Layout,
        now: Instant,
    ) -> Result<Event<'a>, Malformed> {
        self.silent_since = now;
        match message.first() {
            Some(b'>') => self.on_push(message, layout),
            _ => self.on_reply(message),
        }
    }

    fn on_push<'a>(&mut self, message: &'a [u8], layout: &Layout) -> Result<Event<'a>, Malformed> {
        let Some(Reply::Array(mut push)) = Reply::parse(message) else {
            return Err(Malformed);
        };
        let mut bytes = || push.next().and_then(|it| it.bytes());
        let kind = bytes().ok_or(Malformed)?;
        let bucket = bytes().and_then(|channel| layout.bucket_of_channel(channel));
        let Some(bucket) = bucket else {
            return Ok(Event::None);
        };
        let front = self.expected.front().copied();
        Ok(match kind {
            b"smessage" => {
                let payload = bytes().ok_or(Malformed)?;
                // What is no message of ours has no number, and is nothing.
                parse_payload(payload).map_or(Event::None, |(number, line)| {
                    Event::Change(bucket, number, line)
                })
            }
            b"ssubscribe" if front == Some(Entry::Subscribe(bucket)) => {
                self.expected.pop_front();
                Event::Subscribed(bucket)
            }
            b"sunsubscribe" if front == Some(Entry::Unsubscribe(bucket)) => {
                self.expected.pop_front();
                Event::None
            }
            b"sunsubscribe" => Event::Lost(bucket),
            _ => Event::None,
        })
    }

    fn on_reply<'a>(&mut self, reply: &'a [u8]) -> Result<Event<'a>, Malformed> {
        let entry = self.expected.pop_front().ok_or(Malformed)?;
        let is_error = reply.first() == Some(&b'-');
        Ok(match entry {
            Entry::Auth | Entry::Hello | Entry::History if is_error => return Err(Malformed),
            Entry::History => {
                let Some(Reply::Bytes(info)) = Reply::parse(reply) else {
                    return Err(Malformed);
                };
                let mut lines = info.split(|&byte| byte == b'\n');
                let history = lines.find_map(|line| line.strip_prefix(HISTORY));
                let history = history.map(|history| history.trim_ascii_end().into());
                let old = std::mem::replace(&mut self.history, history);
                match old.is_some() && old != self.history {
                    true => Event::OtherHistory,
                    false => Event::None,
                }
            }
            Entry::Subscribe(bucket) => Event::Lost(bucket),
            Entry::Number(bucket) => match Reply::parse(reply) {
                Some(Reply::Nil) => Event::Number(bucket, 0),
                Some(Reply::Bytes(digits)) => match parse_number(digits) {
                    Some(number) => Event::Number(bucket, number),
                    None => Event::Lost(bucket),
                },
                Some(Reply::Error(error)) => match parse_ask(error) {
                    Some(address) => Event::Elsewhere(bucket, address),
                    None => Event::Lost(bucket),
                },
                _ => Event::Lost(bucket),
            },
            Entry::Auth | Entry::Hello | Entry::Asking | Entry::Unsubscribe(_) => Event::None,
        })
    }
}

/// `NUMBER LINE`.
fn parse_payload(payload: &[u8]) -> Option<(u64, &[u8])> {
    let mut parts = payload.splitn(2, |&byte| byte == b' ');
    let number = parse_number(parts.next()?)?;
    Some((number, parts.next()?))
}

/// The address of `ASK SLOT HOST:PORT`.
fn parse_ask(error: &[u8]) -> Option<&str> {
    let words = error.strip_prefix(b"ASK ")?;
    let address = words.split(|&byte| byte == b' ').nth(1)?;
    std::str::from_utf8(address.trim_ascii_end()).ok()
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(layout: &Layout, now: Instant) -> Feed {
        let mut feed = Feed::new(None, now);
        let hello = b"%1\r\n$5\r\nproto\r\n:3\r\n";
        for reply in [&hello[..], info("abc").as_bytes()] {
            assert_eq!(Scanner::default().scan(reply), Ok(Some(reply.len())));
            assert_eq!(feed.on_message(reply, layout, now), Ok(Event::None));
        }
        assert_eq!(feed.history.as_deref(), Some(&b"abc"[..]));
        feed
    }

    fn info(history: &str) -> String {
        let text = format!("run_id:1\r\nmaster_replid:{history}\r\nmaster_replid2:0\r\n");
        format!("${}\r\n{text}\r\n", text.len())
    }

    fn push(kind: &str, channel: &str, last: &str) -> String {
        let bytes = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        format!(">3\r\n{}{}{last}", bytes(kind), bytes(channel))
    }

    #[test]
    fn messages_are_understood() {
        let now = Instant::now();
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let mut feed = feed(&layout, now);
        feed.subscribe(7, false, &layout, now);
        let mut hear = |message: &str, expected| {
            let length = Scanner::default().scan(message.as_bytes());
            assert_eq!(length, Ok(Some(message.len())));
            let event = feed.on_message(message.as_bytes(), &layout, now);
            assert_eq!(event, expected, "{message}");
        };
        let channel = "k:{7}#ch";
        hear(
            &push("ssubscribe", channel, ":1\r\n"),
            Ok(Event::Subscribed(7)),
        );
        let change = push("smessage", channel, "$10\r\n5 Put:a: b\r\n");
        hear(&change, Ok(Event::Change(7, 5, b"Put:a: b")));
        hear("$1\r\n5\r\n", Ok(Event::Number(7, 5)));
        // The slot moves.
        hear(&push("sunsubscribe", channel, ":0\r\n"), Ok(Event::Lost(7)));
        // What others publish there, and elsewhere, is nothing.
        hear(&push("smessage", channel, "$1\r\nx\r\n"), Ok(Event::None));
        hear(&push("smessage", "x{7}#ch", "$1\r\nx\r\n"), Ok(Event::None));
        hear(
            &push("smessage", "{9999}#ch", "$1\r\nx\r\n"),
            Ok(Event::None),
        );
        // Nothing was asked.
        hear(":1\r\n", Err(Malformed));
    }

    #[test]
    fn a_node_that_has_not_the_slot_says_so() {
        let now = Instant::now();
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let mut feed = feed(&layout, now);
        feed.subscribe(7, false, &layout, now);
        feed.unsubscribe(8, &layout, now);
        feed.ask_number(9, false, &layout, now);
        feed.ask_number(9, false, &layout, now);
        let moved = b"-MOVED 1 :7\r\n";
        let mut hear = |message| feed.on_message(message, &layout, now);
        assert_eq!(hear(moved), Ok(Event::Lost(7)));
        assert_eq!(hear(moved), Ok(Event::Lost(7)));
        assert_eq!(hear(moved), Ok(Event::None));
        let elsewhere = Event::Elsewhere(9, ":7");
        assert_eq!(hear(b"-ASK 1 :7\r\n"), Ok(elsewhere));
        // No write yet.
        assert_eq!(hear(b"_\r\n"), Ok(Event::Number(9, 0)));
    }

    /// A node was a replica for a while, and is the master again. Its number may be as before, of other writes:
    /// the name of its history is asked for behind each number, and is another one.
    #[test]
    fn a_node_that_has_become_another_s_replica_has_another_history() {
        let now = Instant::now();
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let mut feed = feed(&layout, now);
        feed.end_questions(now);
        for (name, event) in [("abc", Event::None), ("def", Event::OtherHistory)] {
            feed.out.clear();
            feed.ask_number(7, false, &layout, now);
            feed.ask_number(8, false, &layout, now);
            feed.end_questions(now);
            feed.end_questions(now);
            let asked = String::from_utf8(feed.out.clone()).unwrap();
            assert!(asked.ends_with("INFO\r\n$11\r\nreplication\r\n"), "{asked}");
            assert_eq!(asked.matches("INFO").count(), 1);
            for bucket in [7, 8] {
                let number = feed.on_message(b"$1\r\n5\r\n", &layout, now);
                assert_eq!(number, Ok(Event::Number(bucket, 5)));
            }
            let history = info(name);
            assert_eq!(feed.on_message(history.as_bytes(), &layout, now), Ok(event));
        }
        assert_eq!(feed.history.as_deref(), Some(&b"def"[..]));
    }

    #[test]
    fn a_bucket_that_is_being_moved_is_asked_for_at_its_new_node() {
        let now = Instant::now();
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let mut feed = feed(&layout, now);
        feed.ask_number(7, false, &layout, now);
        let event = feed.on_message(b"-ASK 12 h:7\r\n", &layout, now);
        assert_eq!(event, Ok(Event::Elsewhere(7, "h:7")));
        feed.out.clear();
        feed.subscribe(7, true, &layout, now);
        let asked = String::from_utf8(feed.out.clone()).unwrap();
        assert_eq!(asked.matches("ASKING").count(), 2);
        let subscribed = push("ssubscribe", "k:{7}#ch", ":1\r\n");
        let replies = [
            ("+OK\r\n", Event::None),
            (&subscribed, Event::Subscribed(7)),
            ("+OK\r\n", Event::None),
            ("$1\r\n5\r\n", Event::Number(7, 5)),
        ];
        for (reply, event) in replies {
            assert_eq!(feed.on_message(reply.as_bytes(), &layout, now), Ok(event));
        }
    }
}
