//! Whether no more waited for a client than may.

mod stalled;

use keywire::{Overflow, Stats};

use crate::{
    check::{Check, Mark, Quiet},
    history::{Record, What, is_event},
    script::MAX_LINE,
    sent::Sent,
    watched::Watched,
    world::Moment,
};

/// No event is longer: it says what a line said.
const MAX_EVENT: usize = MAX_LINE + 2;

/// A line that stood in an outbox, or on its way there, for some time at least.
struct Stay {
    from: Moment,
    to: Moment,
    bytes: usize,
    event: bool,
    /// When the look at the room was taken, where that is known.
    entered: Option<Moment>,
}

/// The lines that wait are an outbox-full and one reply more at the most, or as many replies more
/// as the store gives without a look at the room. Where the client refuses bytes, an outbox-full
/// of control lines may come on top. For events, the bytes alone are bounded.
pub(crate) fn check_bounds(check: &Check<'_>, watched: &Watched, record: &Record, quiet: &[Quiet]) {
    let settings = check.settings;
    let stays = stays(check, record, quiet);
    check_room(check, &stays, quiet);
    let (most_lines, most_bytes) = allowance(check);
    stalled::check_stalled(check, watched, quiet, most_lines);
    let refuses = settings.overflow == Overflow::Drop && settings.stall < settings.for_ever();
    let full = 1 + usize::from(refuses);
    let longest = |event: bool| {
        let stays = stays.iter().filter(|stay| stay.event == event);
        stays.map(|stay| stay.bytes).max().unwrap_or(0)
    };
    let event = longest(true);
    // `:missed:N` comes with an event that has found room, and takes a little more.
    let event = event + 2 * ":missed:1000\n".len();
    // Of the line that is being written, most may have been.
    let begun = longest(true).max(longest(false));
    // One control line may stand over their outbox-full, too.
    let most_bytes = most_bytes + if refuses { longest(false) } else { 0 };
    let client = check.client;
    let lines = most_at_a_time(&stays, |stay| usize::from(!stay.event));
    assert!(
        lines < full * settings.outbox_lines + most_lines,
        "client {client}: {lines} lines waited in an outbox of {}, and {most_lines}",
        settings.outbox_lines,
    );
    let bytes = most_at_a_time(&stays, |stay| stay.bytes);
    assert!(
        bytes < full * settings.outbox_bytes + most_bytes + event + begun,
        "client {client}: {bytes} bytes waited in an outbox of {}, and {most_bytes}, {event}",
        settings.outbox_bytes,
    );
}

/// Each reply and each event that was let in found room: no outbox-full was there before it.
fn check_room(check: &Check<'_>, stays: &[Stay], quiet: &[Quiet]) {
    let settings = check.settings;
    for (index, stay) in stays.iter().enumerate() {
        let Some(entered) = stay.entered else {
            continue;
        };
        let there = stays[..index].iter();
        let there = there.filter(|other| other.from <= entered && entered < other.to);
        let (lines, bytes) = there.fold((0, 0), |(lines, bytes), other| {
            // Of the first, all but the last byte may have been written.
            let waiting = if lines == 0 { 1 } else { other.bytes };
            (lines + 1, bytes + waiting)
        });
        // For events, lines are bounded where the client has refused bytes, of which the last
        // moment of rest tells.
        let rested = quiet
            .partition_point(|quiet| quiet.at < entered)
            .checked_sub(1);
        let refuses = rested.is_some_and(|last| {
            let last = &quiet[last];
            last.stalled && check.down.last_write_before(entered) < last.at
        });
        let most = match stay.event && !refuses {
            true => usize::MAX,
            false => settings.outbox_lines,
        };
        assert!(
            lines < most && bytes < settings.outbox_bytes,
            "client {}: {lines} lines and {bytes} bytes waited, and still {:?} found room",
            check.client,
            String::from_utf8_lossy(&check.down.lines[index].text),
        );
    }
}

fn most_at_a_time(stays: &[Stay], measure: impl Fn(&Stay) -> usize) -> usize {
    let mut changes: Vec<(Moment, bool, usize)> = Vec::new();
    for stay in stays {
        if stay.from < stay.to {
            changes.push((stay.from, true, measure(stay)));
            changes.push((stay.to, false, measure(stay)));
        }
    }
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, comes, amount) in changes {
        if comes {
            now += amount;
            most = most.max(now);
        } else {
            now -= amount;
        }
    }
    most
}

/// Each line waits from when it was surely there to when it was written.
fn stays(check: &Check<'_>, record: &Record, quiet: &[Quiet]) -> Vec<Stay> {
    // What a store gave late is surely there when all has come to rest.
    let rest = |given: Moment| {
        let next = quiet.partition_point(|quiet| quiet.at < given);
        quiet.get(next).map(|quiet| quiet.at)
    };
    let is_late = check.settings.late.is_some();

    let mut told = check.marks.iter().filter_map(|mark| match mark {
        Mark::Told(place) => Some(*place),
        _ => None,
    });
    let mut stays: Vec<Stay> = Vec::new();
    let mut answered = (None, None);
    let lines = check.down.lines.iter().zip(&check.answers);
    for ((line, answers), own) in lines.zip(&check.places_of_lines) {
        let is_event = is_event(&line.text);
        let from = if is_event {
            // From the end of its round on, or of one that may be its own.
            let place = told.next().expect("an event");
            let round = record.rounds.partition_point(|(end, _)| *end <= place);
            let end = record.rounds.get(round).map(|(_, end)| *end);
            if is_late {
                Some(check.entries[place].answered)
            } else {
                end
            }
        } else {
            let own = own.map(|place| check.entries[place].answered);
            own.or_else(|| answers.and_then(|index| surely_answered(check, index)))
        };
        // Values are looked at as a whole, when their command is taken.
        let is_first = !line.text.starts_with(b":") && (*answers, *own) != answered;
        if answers.is_some() {
            answered = (*answers, *own);
        }
        let entered = match is_event {
            true => from,
            false => own
                .filter(|_| is_first)
                .map(|place| check.entries[place].at),
        };
        let (from, entered) = match is_late {
            true => (from.and_then(rest), None),
            false => (from, entered),
        };
        stays.push(Stay {
            from: from.unwrap_or(line.written),
            to: line.written,
            bytes: line.text.len() + 1,
            event: is_event,
            entered,
        });
    }
    stays
}

/// When a line was surely answered: with a command, or before the next one.
fn surely_answered(check: &Check<'_>, index: usize) -> Option<Moment> {
    check.sent[index.min(check.sent.len())..]
        .iter()
        .find_map(|sent| match sent {
            Sent::Command(number) => check.places.get(number),
            _ => None,
        })
        .map(|&place| check.entries[place].answered)
}

/// What came, or should have come, for a line that was sent.
#[derive(Clone, Copy, Default)]
struct Answer {
    is_command: bool,
    is_walk: bool,
    /// It is one line that can't be dropped.
    is_control: bool,
    lines: usize,
    /// Where it came.
    bytes: usize,
    written: Option<Moment>,
}

fn answers(check: &Check<'_>) -> Vec<Answer> {
    let of = |sent: &Sent| match sent {
        Sent::Command(number) => {
            let place = check.places.get(number);
            let what = place.map(|&place| &check.entries[place].what);
            let (lines, bytes) = match what {
                Some(What::Read(lines)) => {
                    (lines.len(), lines.iter().map(|line| line.len() + 1).sum())
                }
                Some(What::Written(..)) => (0, 0),
                // It is refused where it was not applied.
                Some(What::Failed | What::Unconfirmed(_) | What::Full(_)) | None => (1, 0),
            };
            Answer {
                is_command: true,
                is_walk: false,
                is_control: !matches!(what, Some(What::Read(_) | What::Written(..))),
                lines,
                bytes,
                written: None,
            }
        }
        // Of a walk, there is a look at the room for each key.
        Sent::Walk { number, .. } => {
            let reads = check.reads_of(*number).iter();
            let lines = reads.map(|place| check.lines_of_read(*number, *place));
            let bytes = |lines: &Vec<Vec<u8>>| lines.iter().map(|line| line.len() + 1).sum();
            let is_read = |place: &usize| matches!(check.entries[*place].what, What::Read(_));
            let walk = check.walk_of(*number);
            let complete = walk.is_some_and(|walk| walk.is_complete());
            let failed = !check.reads_of(*number).iter().all(is_read);
            Answer {
                is_command: true,
                is_walk: true,
                is_control: failed || !complete,
                lines: lines
                    .clone()
                    .map(|lines| lines.len())
                    .max()
                    .unwrap_or(1)
                    .max(1),
                bytes: lines.map(|lines| bytes(&lines)).max().unwrap_or(0),
                ..Answer::default()
            }
        }
        Sent::Blank | Sent::Auth | Sent::Unheard | Sent::Unwatch(..) => Answer::default(),
        _ => Answer {
            is_control: true,
            lines: 1,
            ..Answer::default()
        },
    };
    let mut answers: Vec<Answer> = check.sent.iter().map(of).collect();
    let late = check.up.lines.iter().map(|line| line.read);
    let late = late.map(|read| read.is_some_and(|read| read > check.settings.stopped));
    for ((answer, sent), late) in answers.iter_mut().zip(&check.sent).zip(late) {
        if late && matches!(sent, Sent::Unwatch(..)) {
            // When the server closes, that is refused, too.
            (answer.is_control, answer.lines) = (true, 1);
        }
    }
    for (line, index) in check.down.lines.iter().zip(&check.answers) {
        if let Some(answer) = index.and_then(|index| answers.get_mut(index)) {
            answer.written = Some(line.written);
            if line.text.starts_with(b":") {
                answer.is_control = true;
                let bytes = line.text.len() + 1;
                (answer.lines, answer.bytes) = match answer.is_walk {
                    true => (answer.lines, answer.bytes.max(bytes)),
                    false => (1, bytes),
                };
            }
        }
    }
    answers
}

/// What may be answered without a look at the room: so many commands, and what stands between.
/// Where the store answers each before it takes the next, that is a single reply.
fn allowance(check: &Check<'_>) -> (usize, usize) {
    let answers = answers(check);
    // In a batch that was given late, all up to the last write.
    let blind = match check.settings.late {
        Some(_) => longest_batch(check),
        None => 1,
    };
    let mut most = (0, 0);
    for first in 0..answers.len() {
        let (mut commands, mut lines, mut bytes) = (0, 0, 0);
        for answer in &answers[first..] {
            commands += usize::from(answer.is_command);
            if commands > blind {
                break;
            }
            lines += answer.lines;
            bytes += answer.bytes;
            most = (most.0.max(lines), most.1.max(bytes));
            if blind == 1 {
                break;
            }
        }
    }
    // Neither are those looked at who say something else than the secret.
    if check.settings.secret {
        most = (most.0 + 3, most.1 + 300);
    }
    if check.settings.is_strict() {
        most = (most.0 + 1, most.1 + 100);
    }
    // A line without its end is told without a look at the room, too.
    match check.up.rest.is_empty() {
        true => most,
        false => (most.0 + 1, most.1 + 100),
    }
}

fn longest_batch(check: &Check<'_>) -> usize {
    let own = |connection| check.record.clients.get(&connection) == Some(&check.client);
    let batches = check.record.batches.iter();
    let batches = batches.filter(|batch| own(batch.connection));
    batches.map(|batch| batch.entries.len()).max().unwrap_or(1)
}

/// Whether an outbox-full of control lines may have waited, when a client was to be cut off: those
/// that never came, and those of the last chunk that was being written. With a slow store, it may
/// have taken one more until it was cut off.
pub(crate) fn control_may_fill(check: &Check<'_>) -> bool {
    let answers = answers(check);
    let read = check.up.read_before(Moment::NEVER);
    let absent = answers[..read].iter().zip(&check.sent);
    let absent = absent.filter(|(answer, _)| answer.is_control && answer.written.is_none());
    let last = check.down.lines.iter();
    // What a late store answers was looked at before that, while the client took nothing for long.
    let since = match check.settings.late {
        Some(_) => last_stall(check).min(check.down.chunks[1]),
        None => check.down.chunks[1],
    };
    let last = last.filter(|line| line.written >= since);
    let last = last.filter(|line| line.text.starts_with(b":"));
    let lengths = absent.map(|(_, sent)| longest(sent));
    let lengths = lengths.chain(last.map(|line| line.text.len() + 1));
    let rest = check.down.rest.len() + 100;
    let (lines, bytes) = lengths.fold((1, rest), |(lines, bytes), length| {
        (lines + 1, bytes + length)
    });
    lines >= check.settings.outbox_lines || bytes >= check.settings.outbox_bytes
}

/// When bytes were last taken before none were for the stall time.
fn last_stall(check: &Check<'_>) -> Moment {
    let writes = check.down.writes.iter();
    let next = writes.clone().skip(1).chain(&check.down.over);
    let pairs = writes.zip(next).collect::<Vec<_>>().into_iter().rev();
    let mut stalls = pairs.filter(|(at, next)| next.now - at.now >= check.settings.stall);
    stalls.next().map_or(Moment::default(), |(at, _)| *at)
}

/// The longest control line that may answer this.
fn longest(sent: &Sent) -> usize {
    match sent {
        Sent::Sync(token) => ":sync:1000:\n".len() + token.len(),
        Sent::Stats => longest_stats(),
        Sent::Watch(name, _) => 90 + name.len(),
        Sent::Wrong("unknown") => 170,
        _ => 90,
    }
}

/// Of all counters at 0, and the digits by which those of a run come to be longer.
fn longest_stats() -> usize {
    let counters = Stats::default().counters();
    let counters = counters.map(|(name, _)| name.len() + "=0 ".len());
    ":stats:".len() + counters.sum::<usize>() + 40
}
