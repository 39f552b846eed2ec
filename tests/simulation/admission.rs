//! Who was let in, by a secret or for want of others, and how much of what a client sent was heard.

use std::time::Duration;

use crate::{check::Quiet, network::Direction, sent::Sent, settings::Settings, world::Moment};

/// What has to be said where anything has to be.
pub(crate) const SECRET: &str = "sesame:1";

/// Lines that are answered before the secret is said.
const MAX_ATTEMPTS: usize = 3;

/// How long the secret may take, and the answer to what is not it.
const TIME: Duration = Duration::from_secs(10);
const DELAY: Duration = Duration::from_secs(1);

const FULL: &[u8] = b":error:0:full:the server has as many clients as it may";

/// Whether that is what is said for want of a place.
pub(crate) fn is_full(down: &Direction) -> bool {
    down.lines.first().is_some_and(|line| line.text == FULL)
}

/// How a client came in, or did not.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Lines that are not the secret, before it: so many as are answered.
    attempts: Vec<Attempt>,
    /// The line with the secret.
    gate: Option<usize>,
    /// There was no place for it.
    pub(crate) turned_away: bool,
    /// Something has to be said.
    guarded: bool,
    /// It was told that its time was over.
    pub(crate) late: bool,
    /// It surely was let in.
    pub(crate) sure: bool,
    /// When nothing more could happen at first; since when it had been read by then.
    since: Option<Moment>,
    /// The attempt that is being answered slowly, and since when.
    slow: Option<(usize, Moment)>,
}

#[derive(Debug)]
struct Attempt {
    line: usize,
    /// When it was answered.
    answered: Option<Moment>,
}

/// The line that an answer of this kind answers.
fn unauthorized(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix(":error:")?;
    let (line, rest) = text.split_once(':')?;
    rest.starts_with("unauthorized:")
        .then(|| line.parse().ok())?
}

impl Admission {
    /// `applied`: commands of it are in the history.
    pub(crate) fn of(
        settings: &Settings,
        (down, up): (&Direction, &Direction),
        applied: bool,
    ) -> Self {
        let mut admission = Admission {
            attempts: Vec::new(),
            gate: None,
            turned_away: is_full(down),
            guarded: settings.secret,
            late: false,
            sure: true,
            since: None,
            slow: None,
        };
        let heard = |line: &[u8]| !line.starts_with(b":error:0:") && unauthorized(line).is_none();
        let evidence = applied || down.lines.iter().any(|line| heard(&line.text));
        if settings.secret {
            admission.find_attempts(down, up);
            let first = &up.writes[0];
            let soon = |line: usize| {
                let read = up.lines[line].read;
                read.is_some_and(|at| at.now < first.now + TIME && at < settings.stopped)
            };
            let at_once = admission.attempts.is_empty() && admission.gate.is_some_and(soon);
            admission.sure = admission.gate.is_some() && (at_once || evidence);
            assert!(!admission.late || !admission.sure, "late, and let in");
        }
        if settings.max_clients < usize::MAX {
            admission.sure &= evidence;
        }
        assert!(
            !admission.turned_away || !evidence,
            "turned away, and let in"
        );
        admission
    }

    fn find_attempts(&mut self, down: &Direction, up: &Direction) {
        let answers = || {
            down.lines
                .iter()
                .map(|line| (unauthorized(&line.text), line))
        };
        self.late = answers().any(|(line, _)| line == Some(0));
        let right = format!("Auth:{SECRET}");
        for (line, sent) in up.lines.iter().enumerate() {
            let text = sent.text.strip_suffix(b"\r").unwrap_or(&sent.text);
            if text == right.as_bytes() {
                self.gate = Some(line);
                return;
            } else if !text.is_empty() {
                let answer = answers().find(|(number, _)| *number == Some(line + 1));
                self.attempts.push(Attempt {
                    line,
                    answered: answer.map(|(_, answer)| answer.written),
                });
                self.took_its_time(line, answer.map(|(_, answer)| answer.begun.now), up);
                if self.attempts.len() == MAX_ATTEMPTS {
                    return;
                }
            }
        }
    }

    /// Each answer comes a second after what it answers, and after the answer before it.
    fn took_its_time(&self, line: usize, answered: Option<Duration>, up: &Direction) {
        let delays = (1..).zip(self.attempts.iter().rev());
        for (delays, earlier) in delays.take(self.attempts.len()) {
            let read = up.lines[earlier.line].read;
            let soonest = read.map(|read| read.now + DELAY * delays);
            assert!(
                answered.is_none() || answered >= soonest,
                "line {line} was answered after {answered:?}, not {soonest:?}"
            );
        }
    }

    /// What has to come of a line, as things are.
    pub(crate) fn sent(&self, settings: &Settings, line: usize, text: &[u8]) -> Sent {
        let own = Sent::of(text, settings.secret, settings.number(line));
        let arrived = self.attempts.iter().find(|attempt| attempt.line == line);
        let unanswered = |attempt: &&Attempt| attempt.answered.is_none();
        let end = match self.late {
            // It was being looked at when the time was over.
            true => self
                .attempts
                .iter()
                .find(unanswered)
                .map(|attempt| attempt.line),
            false => None,
        };
        let end = end.or_else(|| {
            self.attempts
                .get(MAX_ATTEMPTS - 1)
                .map(|last| last.line + 1)
        });
        if self.turned_away || end.is_some_and(|end| line >= end) {
            return Sent::Unheard;
        }
        match self.gate {
            _ if !settings.secret => own,
            _ if arrived.is_some() => Sent::Wrong("unauthorized"),
            Some(gate) if gate <= line && self.late => Sent::Unheard,
            Some(gate) if gate <= line => own,
            _ => Sent::Blank,
        }
    }

    /// So many of the lines read were surely looked at before, where there was time for that.
    pub(crate) fn heard(&self, read: usize, before: Moment) -> usize {
        let answered = |attempt: &Attempt| attempt.answered.is_some_and(|at| at < before);
        let stuck = self.attempts.iter().find(|attempt| !answered(attempt));
        let end = match stuck {
            Some(attempt) => attempt.line,
            None if self.sure => usize::MAX,
            None => self.gate.unwrap_or(0),
        };
        read.min(if self.turned_away { usize::MAX } else { end })
    }

    /// Whether these lines end behind the secret.
    pub(crate) fn is_in(&self, lines: usize) -> bool {
        let said = self.gate.is_some_and(|gate| gate < lines);
        !self.turned_away && (!self.guarded || said)
    }

    /// Whether what was read is sure to have been looked at soon.
    pub(crate) fn is_prompt(&self, applied: bool) -> bool {
        self.sure && (self.attempts.is_empty() || applied)
    }

    /// Nothing can happen before time passes. Gives the number of lines that were looked at.
    pub(crate) fn settle(&mut self, quiet: &Quiet, read: usize, looked: Option<Moment>) -> usize {
        if !self.guarded {
            return read;
        }
        let now = quiet.at.now;
        let since = match looked {
            Some(looked) if looked < quiet.at => self.since.get_or_insert(quiet.at).now,
            _ => return 0,
        };
        let answered = |attempt: &Attempt| attempt.answered.is_some_and(|at| at < quiet.at);
        let stuck = self.attempts.iter().find(|attempt| !answered(attempt));
        let stuck = stuck
            .map(|attempt| attempt.line)
            .filter(|&line| line < read);
        let in_time = now < since + TIME;
        if let Some(line) = stuck {
            match self.slow {
                Some((other, since)) if other == line => {
                    assert!(
                        now < since.now + DELAY,
                        "line {line} was not answered in time"
                    );
                }
                _ => self.slow = Some((line, quiet.at)),
            }
            assert!(in_time, "a connection may still say the secret");
            return line;
        }
        assert!(
            self.attempts.len() < MAX_ATTEMPTS || self.attempts[MAX_ATTEMPTS - 1].line >= read,
            "a fourth try"
        );
        match self.gate {
            Some(gate) if gate < read => assert!(!self.late, "the secret was said in time"),
            _ => assert!(in_time, "a connection may still say the secret"),
        }
        read
    }
}

/// Who was turned away found all places taken.
pub(crate) fn check_full(
    settings: &Settings,
    came: &[(Moment, &Direction, bool)],
    quiet: &[Quiet],
) {
    for (arrived, down, turned_away) in came {
        if !turned_away {
            continue;
        }
        assert_eq!(
            down.lines.len(),
            1,
            "turned away, and told more: {:?}",
            down.lines
        );
        let told = down.lines[0].begun;
        let there = came.iter().filter(|(other, down, turned_away)| {
            // A place is free when all has come to rest, at the latest.
            let free = down.left.and_then(|left| {
                let rests = quiet.iter().find(|quiet| quiet.at > left);
                rests.map(|quiet| quiet.at)
            });
            !turned_away && *other < told && free.is_none_or(|free| free > *arrived)
        });
        let there = there.count();
        assert!(
            there >= settings.max_clients,
            "turned away with {there} clients of {}",
            settings.max_clients
        );
    }
}
