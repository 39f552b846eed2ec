//! The rules with made-up bytes and instants.

use std::cell::{Cell, RefCell};

use super::*;
use crate::Secret;

/// Surroundings that say what a test wants, and keep what is sent.
struct Fake {
    limits: Limits,
    began: Instant,
    now: Cell<Instant>,
    unread: Cell<Option<usize>>,
    is_delivered: Cell<bool>,
    silence: Cell<Option<Duration>>,
    clock_reads: Cell<usize>,
    sent: RefCell<Vec<String>>,
}

impl Environment for Fake {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn now(&self) -> Instant {
        self.clock_reads.set(self.clock_reads.get() + 1);
        self.now.get()
    }

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        Vec::with_capacity(bytes)
    }

    fn unread(&self) -> Option<usize> {
        self.unread.get()
    }

    fn is_delivered(&self) -> bool {
        self.is_delivered.get()
    }

    fn is_finished(&self) -> bool {
        self.is_delivered.get()
    }

    fn silence(&self) -> Option<Duration> {
        self.silence.get()
    }

    fn send(&self, message: Message) {
        self.sent.borrow_mut().push(match message {
            Message::Lines { block, throttled } => {
                let lines = String::from_utf8_lossy(block.bytes()).into_owned();
                format!("{}{lines}", if throttled { "late " } else { "" })
            }
            Message::Authenticated { line } => format!("authenticated {line}"),
            Message::AuthFailed(failed) => format!("failed {} {}", failed.line, failed.wrong),
            Message::InputEnd(InputEnd::AuthFailed(failed)) => {
                format!("end failed {} {}", failed.line, failed.wrong)
            }
            Message::InputEnd(InputEnd::OtherProtocol { protocol, line }) => {
                format!("end {protocol:?} {line}")
            }
            Message::InputEnd(end) => format!("end {end:?}"),
            Message::OutboxReady | Message::Disconnected { .. } => unreachable!(),
        });
    }
}

/// The rules of one connection.
struct Rules {
    input: InputRules,
    env: Fake,
}

impl Rules {
    fn new(set: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        set(&mut limits);
        let now = Instant::now();
        let env = Fake {
            limits,
            began: now,
            now: Cell::new(now),
            unread: Cell::new(None),
            is_delivered: Cell::new(true),
            silence: Cell::new(None),
            clock_reads: Cell::new(0),
            sent: RefCell::default(),
        };
        let input = InputRules::new(&env);
        Self { input, env }
    }

    fn with_secret() -> Self {
        Self::new(|limits| limits.secret = Some(Secret::new("sesame").unwrap()))
    }

    fn read(&mut self, bytes: &str) -> Vec<String> {
        self.input.on_bytes(bytes.as_bytes(), &self.env);
        self.env.sent.take()
    }

    fn permit(&mut self) -> Vec<String> {
        assert_eq!(self.input.wait(), Wait::Permit);
        self.input.on_permit(false, &self.env);
        self.env.sent.take()
    }

    fn permit_at_shutdown(&mut self, unread: usize) -> Vec<String> {
        assert_eq!(self.input.wait(), Wait::Permit);
        self.env.unread.set(Some(unread));
        self.input.on_permit(true, &self.env);
        self.env.sent.take()
    }

    fn shut_down(&mut self) -> Vec<String> {
        self.input.on_shutdown(&self.env);
        self.env.sent.take()
    }

    fn eof(&mut self) -> Vec<String> {
        self.input.on_eof(&self.env);
        self.env.sent.take()
    }

    /// So much time passes, and each deadline is kept.
    fn pass(&mut self, millis: u64) -> Vec<String> {
        let end = self.env.now.get() + Duration::from_millis(millis);
        while let Some(deadline) = self.input.deadline().filter(|&it| it <= end) {
            self.env.now.set(deadline.max(self.env.now.get()));
            self.input.on_timeout(&self.env);
        }
        self.env.now.set(end);
        self.env.sent.take()
    }

    /// Milliseconds from the beginning to the deadline.
    fn deadline(&self) -> Option<u128> {
        let deadline = self.input.deadline()?;
        Some((deadline - self.env.began).as_millis())
    }
}

#[test]
fn lines_are_sent_whole_and_the_next_read_waits_for_the_permit() {
    let mut rules = Rules::new(|_| ());
    assert_eq!(rules.read("Put:a:1\nGet"), ["Put:a:1\n"]);
    assert_eq!(rules.input.wait(), Wait::Permit);
    assert!(rules.permit().is_empty());
    assert_eq!(rules.input.wait(), Wait::Bytes);
    assert_eq!(rules.read(":a\n"), ["Get:a\n"]);
    rules.permit();
    assert_eq!(rules.eof(), ["end Eof"]);
    assert_eq!(rules.input.wait(), Wait::Done);
}

#[test]
fn whole_lines_cost_no_look_at_the_clock_and_leave_no_deadline() {
    let mut rules = Rules::new(|_| ());
    rules.read("Get:a\n");
    rules.permit();
    assert_eq!((rules.env.clock_reads.get(), rules.deadline()), (0, None));
}

#[test]
fn a_line_that_has_not_ended_is_told_at_the_end() {
    let mut rules = Rules::new(|_| ());
    rules.read("Put:a");
    assert_eq!(rules.eof(), ["end IncompleteLine"]);
}

#[test]
fn a_line_has_its_time_from_when_its_client_can_go_on() {
    let mut rules = Rules::new(|limits| limits.line_timeout = Duration::from_secs(5));
    rules.read("Get:a\nGet");
    assert_eq!(rules.deadline(), None);
    assert!(rules.pass(7_000).is_empty());
    rules.permit();
    assert_eq!(rules.deadline(), Some(12_000));
    rules.pass(2_000);
    rules.read(":a");
    assert_eq!(rules.deadline(), Some(12_000));
    rules.read("\nGet");
    rules.permit();
    assert_eq!(rules.deadline(), Some(14_000));
    assert_eq!(rules.pass(5_000), ["end LineTimeout"]);
    assert_eq!(rules.input.wait(), Wait::Discard);
}

#[test]
fn the_secret_comes_in_any_pieces_and_what_follows_is_delivered() {
    let mut rules = Rules::with_secret();
    assert!(rules.read("\nAuth:ses").is_empty());
    let sent = rules.read("ame\r\nGet:a\nGet");
    assert_eq!(sent, ["authenticated 2", "Get:a\n"]);
    rules.permit();
    assert_eq!(rules.deadline(), Some(60_000));
}

#[test]
fn a_wrong_line_is_answered_after_a_second_and_the_third_is_the_last() {
    let mut rules = Rules::with_secret();
    assert!(
        rules
            .read("Get:a\nAuth:no\nAuth:no\nAuth:sesame\n")
            .is_empty()
    );
    assert_eq!(rules.input.wait(), Wait::Deadline);
    assert!(rules.pass(999).is_empty());
    assert_eq!(rules.pass(1), ["failed 1 false"]);
    assert!(rules.permit().is_empty());
    assert_eq!(rules.pass(1_000), ["failed 2 true"]);
    rules.permit();
    assert_eq!(rules.pass(1_000), ["end failed 3 true"]);
    assert_eq!(rules.input.wait(), Wait::Discard);
}

#[test]
fn a_line_too_long_for_a_secret_is_the_last() {
    let mut rules = Rules::with_secret();
    assert!(rules.read(&"x".repeat(AUTH_BYTES)).is_empty());
    assert_eq!(rules.input.wait(), Wait::Bytes);
    assert!(rules.read("x").is_empty());
    assert_eq!(rules.pass(1_000), ["end failed 1 false"]);
}

#[test]
fn the_time_to_authenticate_ends_while_an_answer_is_delayed_too() {
    let mut rules = Rules::with_secret();
    rules.pass(9_500);
    rules.read("Get:a\n");
    assert_eq!(rules.pass(500), ["end AuthTimeout"]);
}

#[test]
fn an_end_of_the_input_before_the_secret_tells_of_a_line_that_has_not_ended() {
    assert_eq!(Rules::with_secret().eof(), ["end Eof"]);
    let mut rules = Rules::with_secret();
    rules.read("\nAuth:");
    assert_eq!(rules.eof(), ["end failed 2 false"]);
}

#[test]
fn another_protocol_before_the_first_valid_command_ends_the_input_behind_its_lines() {
    let mut rules = Rules::new(|_| ());
    let sent = rules.read("what\nGET / HTTP/1.1\nPut:a:1\n");
    assert_eq!(sent, ["what\n"]);
    assert_eq!(rules.permit(), ["end Http 2"]);

    let mut rules = Rules::new(|_| ());
    rules.read("what\n");
    rules.permit();
    assert_eq!(rules.read("HOST: here\nPut:a:1\n"), ["end Http 2"]);

    let mut rules = Rules::new(|_| ());
    assert!(rules.read("\x16").is_empty());
    assert_eq!(rules.read("\x03"), ["end Tls 1"]);

    let mut rules = Rules::with_secret();
    assert_eq!(rules.read("GET / HTTP/1.1\n"), ["end Http 1"]);

    let mut rules = Rules::new(|_| ());
    rules.read("Get:a\n");
    rules.permit();
    assert_eq!(rules.read("Host: here\n"), ["Host: here\n"]);
}

#[test]
fn lines_over_the_rate_wait_and_what_silence_has_saved_comes_at_once() {
    let mut rules = Rules::new(|limits| limits.max_line_rate = 2);
    assert_eq!(rules.read("a\nb\nc\nd\n"), ["a\nb\n"]);
    assert!(rules.permit().is_empty());
    assert_eq!(rules.input.wait(), Wait::Deadline);
    assert_eq!(rules.pass(500), ["late c\n"]);
    assert!(rules.permit().is_empty());
    assert_eq!(rules.pass(500), ["late d\n"]);
    assert!(rules.permit().is_empty());
    assert_eq!(rules.input.wait(), Wait::Bytes);
    rules.pass(1_000);
    assert_eq!(rules.read("e\nf\n"), ["e\nf\n"]);
}

#[test]
fn at_a_shutdown_lines_that_wait_for_their_rate_are_sent_to_be_refused() {
    let mut rules = Rules::new(|limits| limits.max_line_rate = 1);
    assert_eq!(rules.read("a\nb\nc\n"), ["a\n"]);
    rules.permit();
    assert_eq!(rules.shut_down(), ["late b\nc\n"]);
    assert!(rules.permit_at_shutdown(0).is_empty());
    assert_eq!(rules.shut_down(), ["end ShuttingDown"]);
}

#[test]
fn at_a_shutdown_what_stands_in_the_socket_is_read_and_no_more() {
    let mut rules = Rules::new(|_| ());
    rules.read("a\n");
    assert!(rules.permit_at_shutdown(4).is_empty());
    assert_eq!(rules.read("b\n"), ["b\n"]);
    assert!(rules.permit_at_shutdown(9).is_empty());
    assert_eq!(rules.read("c\n"), ["c\n"]);
    assert_eq!(rules.permit_at_shutdown(9), ["end ShuttingDown"]);

    let mut rules = Rules::new(|_| ());
    rules.read("a\nb");
    rules.permit_at_shutdown(2);
    assert_eq!(rules.read("cd"), ["end ShuttingDown"]);
}

#[test]
fn a_connection_on_which_nothing_moves_is_idle_unless_the_server_has_to_move() {
    let mut rules = Rules::new(|limits| limits.idle_timeout = Duration::from_secs(3));
    rules.read("Get:a\n");
    assert!(rules.pass(10_000).is_empty());
    rules.permit();
    assert!(rules.pass(2_999).is_empty());
    rules.input.on_write(true, &rules.env);
    assert!(rules.pass(2_999).is_empty());
    assert_eq!(rules.pass(1), ["end IdleTimeout"]);

    let mut rules = Rules::new(|limits| limits.idle_timeout = Duration::from_secs(3));
    rules.read("Get:a\n");
    rules.env.is_delivered.set(false);
    assert_eq!(rules.pass(3_000), ["end IdleTimeout"]);
}

#[test]
fn bytes_that_the_peer_has_not_acknowledged_are_no_activity() {
    for (silence, ends_at) in [(None, 4_000), (Some(2_500), 3_500), (Some(9_000), 3_000)] {
        let mut rules = Rules::new(|limits| limits.idle_timeout = Duration::from_secs(3));
        rules.env.silence.set(silence.map(Duration::from_millis));
        rules.pass(1_000);
        rules.input.on_write(false, &rules.env);
        if ends_at > 3_000 {
            assert!(rules.pass(2_000).is_empty());
            rules.env.silence.set(Some(Duration::from_secs(9)));
            assert_eq!(rules.deadline(), Some(ends_at));
            rules.pass(ends_at as u64 - 3_001);
            assert_eq!(rules.pass(1), ["end IdleTimeout"]);
        } else {
            assert_eq!(rules.pass(2_000), ["end IdleTimeout"]);
        }
    }
}

#[test]
fn replies_that_are_not_read_after_the_end_of_the_input_are_kept_as_long_as_it_may_be_idle() {
    let mut rules = Rules::new(|limits| limits.idle_timeout = Duration::from_secs(3));
    assert_eq!(rules.eof(), ["end Eof"]);
    assert_eq!(rules.input.wait(), Wait::Delivery);
    assert_eq!(rules.pass(3_000), ["end UnreadTimeout"]);
    assert_eq!(rules.input.wait(), Wait::TimedOut);
}

#[test]
fn input_that_the_server_has_ended_is_discarded_until_the_client_is_silent() {
    let mut rules = Rules::new(|_| ());
    rules.shut_down();
    for _ in 0..20 {
        rules.pass(200);
        assert!(rules.read("Get:a\n").is_empty());
    }
    rules.env.is_delivered.set(false);
    rules.pass(1_000);
    assert_eq!(rules.input.wait(), Wait::Discard);
    rules.env.is_delivered.set(true);
    rules.pass(250);
    assert_eq!(rules.input.wait(), Wait::Done);
}

#[test]
fn a_rejected_client_has_two_seconds_to_read_why() {
    let mut rules = Rules::new(|_| ());
    rules.input = InputRules::rejected(&rules.env);
    for _ in 0..9 {
        rules.pass(200);
        rules.read("Get:a\n");
    }
    assert_eq!(rules.input.wait(), Wait::Discard);
    rules.pass(100);
    rules.read("Get:a\n");
    rules.pass(100);
    assert_eq!(rules.input.wait(), Wait::TimedOut);

    rules.input = InputRules::rejected(&rules.env);
    assert!(rules.eof().is_empty());
    assert_eq!(rules.input.wait(), Wait::Done);
}
