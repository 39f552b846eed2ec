//! Whether those who took too long were told to go, nobody else, and in time; and whether a client's
//! lines kept to its rate.

use std::time::Duration;

use crate::{
    check::{Check, Quiet},
    network::Direction,
    sent::Sent,
    world::Moment,
};

const SLOW: &[u8] = b":too-long:the line took longer than ";
const IDLE: &[u8] = b":error:0:closing:nothing has moved here for ";

/// What a server says last that is shut down.
pub(crate) const END: &[u8] = b":error:0:closing:the server is shutting down";

/// The server keeps the time of the last move in these.
const TICK: Duration = Duration::from_millis(1);

/// The line that took too long, by its place.
pub(crate) fn slow(text: &[u8]) -> Option<usize> {
    let rest = text.strip_prefix(b":error:")?;
    let end = rest.iter().position(|&byte| byte == b':')?;
    let number: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    rest[end..].starts_with(SLOW).then(|| number - 1)
}

pub(crate) fn is_idle(text: &[u8]) -> bool {
    text.starts_with(IDLE)
}

/// Where the line stands that took too long.
pub(crate) fn slow_line(down: &Direction) -> Option<usize> {
    down.lines.iter().find_map(|line| slow(&line.text))
}

pub(crate) fn was_idle(down: &Direction) -> bool {
    down.lines.iter().any(|line| is_idle(&line.text))
}

pub(crate) fn is_told_of_the_end(down: &Direction) -> bool {
    down.lines.iter().any(|line| line.text == END)
}

/// What has stood still since a moment of rest.
#[derive(Debug, Default)]
pub(crate) struct Still {
    half: Option<(usize, Moment)>,
    moves: Option<(usize, Moment)>,
}

impl Still {
    /// Nothing can happen before time passes, the client has read everything and is still there,
    /// and all that was read of it is done.
    pub(crate) fn settle(
        &mut self,
        check: (&Direction, &Direction),
        quiet: &Quiet,
        limits: (Duration, Duration),
    ) {
        let ((down, up), (line_timeout, idle)) = (check, limits);
        let lines = up.read_before(quiet.at);
        let begun = up.starts.partition_point(|start| *start < quiet.at);
        let half = (begun > lines).then_some(lines);
        last_too_long(&mut self.half, half, quiet, line_timeout, "a half line");
        let reads = up.reads.partition_point(|read| read.at < quiet.at);
        let writes = down.writes.partition_point(|write| *write < quiet.at);
        let there = up.looked.is_some_and(|looked| looked < quiet.at);
        let moves = there.then_some(reads + writes);
        last_too_long(&mut self.moves, moves, quiet, idle, "an idle connection");
    }
}

fn last_too_long(
    before: &mut Option<(usize, Moment)>,
    now: Option<usize>,
    quiet: &Quiet,
    limit: Duration,
    what: &str,
) {
    *before = match (*before, now) {
        (Some((same, since)), Some(now)) if same == now => {
            let lasted = quiet.at.now - since.now;
            assert!(
                lasted < limit,
                "{what} has stayed for {lasted:?}, not {limit:?}"
            );
            Some((same, since))
        }
        (_, now) => now.map(|now| (now, quiet.at)),
    };
}

/// Nobody was told to go who kept to the limits.
pub(crate) fn check_limits(check: &Check<'_>) {
    let (client, settings) = (check.client, check.settings);
    for line in &check.down.lines {
        if let Some(place) = slow(&line.text) {
            let start = check.up.starts.get(place).expect("it had begun");
            // Until the lines before it were done, nobody looked at it.
            let before = check.sent[..place.min(check.sent.len())].iter();
            let before = before.filter_map(|sent| match sent {
                Sent::Command(number) => check.places.get(number),
                _ => None,
            });
            let done = before.map(|&place| check.entries[place].answered).max();
            let start = done.unwrap_or_default().now.max(start.now);
            let took = line.begun.now - start;
            assert!(
                took >= settings.line_timeout,
                "client {client}: line {place} took {took:?}, not {:?}",
                settings.line_timeout
            );
        }
        if is_idle(&line.text) {
            let reads = check.up.reads.iter().map(|read| read.at);
            let writes = check.down.writes.iter().copied();
            // What it sends when it is told to go is read, but not for long.
            let moves = |moves: &mut dyn Iterator<Item = Moment>| {
                let mut moves: Vec<Moment> = moves.filter(|at| *at < line.begun).collect();
                moves.sort_unstable();
                moves
            };
            let mut all = moves(&mut reads.chain(writes));
            all.push(line.begun);
            let longest = all.windows(2).map(|pair| pair[1].now - pair[0].now).max();
            assert!(
                longest.unwrap_or_default() + TICK >= settings.idle,
                "client {client} was idle for {longest:?}, not {:?}",
                settings.idle
            );
        }
    }
    if settings.is_throttled() {
        check_rate(check);
    }
}

/// In any time, no more lines than the rate allows, what a second may save, and what had been
/// let through before and had to wait for its turn.
fn check_rate(check: &Check<'_>) {
    let times = check.sent.iter().filter_map(|sent| match sent {
        Sent::Command(number) => check.places.get(number),
        _ => None,
    });
    let times: Vec<Duration> = times.map(|&place| check.entries[place].at.now).collect();
    let rate = f64::from(check.settings.rate);
    for (first, from) in times.iter().enumerate() {
        for (last, to) in times.iter().enumerate().skip(first) {
            let lines = (last + 1 - first) as f64;
            let most = rate * (2.0 + (*to - *from).as_secs_f64());
            assert!(
                lines <= most + 0.01,
                "client {}: {lines} lines in {:?}, at {rate} a second",
                check.client,
                *to - *from
            );
        }
    }
}
