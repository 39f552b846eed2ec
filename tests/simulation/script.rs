//! Clients that send lines as they like and read as they like.

use std::{cell::Cell, time::Duration};

use fastrand::Rng;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future, io::split};

use crate::{
    admission::SECRET,
    network::{Connection, Endpoint},
    world::World,
};

pub(crate) const MAX_LINE: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    Eager,
    Slow,
    /// Not before everything is sent, and some time has passed.
    Late,
    /// Reads now and then, with long pauses.
    Nodding,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// No more input, then all replies.
    Polite,
    /// Within a line.
    Half,
    /// Within a line, and stays.
    HalfStays,
    /// With a reset, at any moment.
    Reset,
    /// Waits for the server to end.
    Stays,
}

/// What kinds of lines a client prefers.
#[derive(Clone, Copy)]
enum Behaviour {
    Anything,
    Reads,
    Writes,
    Fences,
    Watches,
}

fn line(client: usize, number: usize, behaviour: Behaviour, style: Style, rng: &mut Rng) -> String {
    let tag = format!("{client}.{number}");
    let key = format!("k{}", rng.u8(..4));
    let (key, end, removed) = match style.has_tags {
        true => (format!("{key}#{tag}"), format!("#{tag}"), String::new()),
        false => (key, String::new(), format!("~{tag}")),
    };
    let old = format!("{client}.{}", rng.usize(..=number));
    let name = ["w", "k0", "k1#", "k", ""][rng.usize(..5)];
    let name = if style.has_tags {
        name
    } else {
        name.trim_end_matches('#')
    };
    let topic = |word: &str, prefix: bool| match prefix || name.is_empty() {
        true => format!("{word}Prefix:{name}"),
        false => format!("{word}:{name}"),
    };
    let any = rng.u8(..26);
    let kind = match behaviour {
        _ if rng.u8(..3) == 0 => any,
        Behaviour::Anything => any,
        Behaviour::Reads => 5,
        Behaviour::Writes => [0, 1, 2, 3, 4, 10, 12, 22, 23, 24][rng.usize(..10)],
        Behaviour::Fences => rng.u8(13..17),
        Behaviour::Watches => rng.u8(17..20),
    };
    match kind {
        0..=3 => format!("Put:{key}:{tag}"),
        4 => format!("Put:w:{tag}"),
        5..=9 => format!("Get:{key}"),
        10 => format!("Update:{key}:{old}:{tag}"),
        11 => format!("Update:w:{old}:{tag}"),
        12 if style.has_tags => format!("Delete:{key}"),
        13..=14 => format!("Sync:{tag}"),
        15 => "Sync".into(),
        16 => "Stats".into(),
        17 => topic("Watch", false),
        18 => topic("Watch", true),
        19 => topic("Unwatch", rng.bool()),
        20 => String::new(),
        12 | 21 => format!("Set:{key}:{tag}"),
        22 => format!("Set:w:{tag}"),
        23..=24 => format!("Remove:{key}:{old}{removed}"),
        25 => {
            let word = ["GetPrefix", "GetPrefix", "Keys"][rng.usize(..3)];
            let word = if style.counts { word } else { "GetPrefix" };
            let prefix = ["w", "k", "k1", ""][rng.usize(..4)];
            format!("{word}:{prefix}{end}")
        }
        _ => match rng.u8(..7) {
            0 => "get:k".into(),
            1 => "Put:k".into(),
            2 => "Watch:".into(),
            3 if rng.bool() => "Auth:no".into(),
            5 => "GetPrefix".into(),
            6 => "Keys:k:1".into(),
            3 => format!("Auth:{SECRET}"),
            _ => "x".repeat(MAX_LINE + rng.usize(1..200)),
        },
    }
}

/// How commands are written.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    /// Whether keys have tags.
    pub(crate) has_tags: bool,
    /// Whether keys are counted.
    pub(crate) counts: bool,
}

fn script(client: usize, style: Style, rng: &mut Rng) -> Vec<Vec<u8>> {
    use Behaviour::{Anything, Fences, Reads, Watches, Writes};
    let behaviour = [Anything, Anything, Reads, Writes, Fences, Watches][rng.usize(..6)];
    // Some only watch.
    let most = [60, 60, 60, 5][rng.usize(..4)];
    let behaviour = if most < 60 { Watches } else { behaviour };
    let mut prefix = None;
    (0..rng.usize(..most))
        .map(|number| {
            let end = if rng.u8(..10) == 0 { "\r\n" } else { "\n" };
            let line = match (prefix.take(), rng.u8(..30)) {
                // What a mirror does.
                (Some(prefix), _) if style.has_tags => {
                    format!("GetPrefix:{prefix}#{client}.{number}")
                }
                (Some(prefix), _) => format!("GetPrefix:{prefix}"),
                (None, 0) => {
                    let own = ["", "k", "k1", "w"][rng.usize(..4)];
                    prefix = Some(own);
                    format!("WatchPrefix:{own}")
                }
                _ => line(client, number, behaviour, style, rng),
            };
            (line + end).into_bytes()
        })
        .collect()
}

/// What a client says to be let in, or not, and the pauses before each of it. Some of the script
/// may come before.
fn knocks(lines: &mut Vec<Vec<u8>>, rng: &mut Rng) -> Vec<(Duration, Vec<u8>)> {
    let mut knocks = Vec::new();
    let mut say = |text: &str| knocks.push((Duration::ZERO, text.as_bytes().to_vec()));
    let right = format!("Auth:{SECRET}\n");
    match rng.u8(..14) {
        0 => return knocks,
        1 => {
            (0..4).for_each(|_| say("Auth:sesame\n"));
            say(&right);
        }
        2..=4 => {
            let wrong = [
                "Auth:sesame\n",
                "Auth:sesame:12\r\n",
                "auth:sesame:1\n",
                "Sync\n",
            ];
            for _ in 0..rng.usize(1..3) {
                say(wrong[rng.usize(..wrong.len())]);
            }
            say(&right);
        }
        5 => {
            let late = Duration::from_millis(rng.u64(9000..12_000));
            knocks.push((late, right.into()));
        }
        6 => {
            let first = lines.len().min(rng.usize(..4));
            let first: Vec<Vec<u8>> = lines.drain(..first).collect();
            knocks.push((Duration::ZERO, first.concat()));
            knocks.push((Duration::ZERO, right.into()));
        }
        7..=9 => {
            say("\n\r\n");
            say(&right.replace('\n', "\r\n"));
        }
        10..=11 => {
            let cut = rng.usize(1..right.len());
            say(&right[..cut]);
            let pause = Duration::from_millis(rng.u64(..2000));
            knocks.push((pause, right[cut..].into()));
        }
        _ => say(&right),
    }
    knocks
}

/// Sends its script and reads as it likes; the connection keeps what it did and saw.
pub(crate) async fn client(
    world: World,
    end: Endpoint,
    number: usize,
    guarded: bool,
    style: Style,
    mut rng: Rng,
) {
    use Reading::{Eager, Late, Never, Nodding, Slow};
    let reading = [Eager, Eager, Slow, Late, Nodding, Never][rng.usize(..6)];
    let ending = [
        Ending::Polite,
        Ending::Polite,
        Ending::Half,
        Ending::HalfStays,
        Ending::Reset,
        Ending::Stays,
    ];
    let ending = ending[rng.usize(..ending.len())];
    let mut lines = script(number, style, &mut rng);
    let knocks = if guarded {
        knocks(&mut lines, &mut rng)
    } else {
        Vec::new()
    };
    let connection = end.connection();
    let (reader, mut writer) = split(end);
    let sent_all = Cell::new(false);

    let write = async {
        for (pause, bytes) in &knocks {
            if !pause.is_zero() {
                world.sleep(*pause).await;
            }
            if writer.write_all(bytes).await.is_err() {
                break;
            }
        }
        for chunk in lines.chunks(rng.usize(1..20)) {
            if writer.write_all(&chunk.concat()).await.is_err() {
                break;
            }
            if rng.u8(..4) == 0 {
                world.sleep(Duration::from_millis(rng.u64(..900))).await;
            }
            if ending == Ending::Reset && rng.u8(..8) == 0 {
                break;
            }
        }
        match ending {
            Ending::Reset => connection.reset(),
            Ending::Half => {
                let _ = writer.write_all(b"Put:ha").await;
                let _ = writer.close().await;
            }
            Ending::HalfStays => drop(writer.write_all(b"Put:ha").await),
            Ending::Polite => drop(writer.close().await),
            Ending::Stays => {}
        }
        sent_all.set(true);
    };
    // The server's end of the stream ends the client, whatever it still has to send.
    let read = read(&world, reader, &connection, reading, &sent_all, number);
    future::or(read, async {
        write.await;
        future::pending().await
    })
    .await;
}

async fn read(
    world: &World,
    mut reader: impl futures_lite::AsyncRead + Unpin,
    connection: &Connection,
    reading: Reading,
    sent_all: &Cell<bool>,
    seed: usize,
) {
    let mut rng = Rng::with_seed(seed as u64 + world.random(|rng| rng.u64(..1000)));
    if reading == Reading::Late {
        while !sent_all.get() {
            world.sleep(Duration::from_millis(100)).await;
            if rng.u8(..20) == 0 {
                break;
            }
        }
        world.sleep(Duration::from_millis(rng.u64(..3000))).await;
    }
    if reading == Reading::Never {
        world.sleep(Duration::from_secs(120)).await;
        return connection.reset();
    }
    let mut buffer = [0; 256];
    while let Ok(n) = reader.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let pause = match reading {
            Reading::Slow => rng.u64(..600),
            Reading::Nodding if rng.u8(..4) == 0 => rng.u64(..4000),
            _ => continue,
        };
        world.sleep(Duration::from_millis(pause)).await;
    }
}
