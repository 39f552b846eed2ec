//! Lines of a dump → the server.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use futures_lite::{AsyncBufReadExt as _, io::BufReader};
use keywire::{Client, Error, Pipeline};
use smol::Unblock;

use crate::say::say;

/// Lines that are sent before their answers are waited for.
const SENT_LINES: usize = 1_000;

/// Stores what `dump` has printed: each key's first value by a `Set`, the others by a `Put`. So it can be
/// repeated. Gives why it ended early.
pub(crate) async fn load(
    client: &Client,
    failed: impl Fn(Error) -> String,
) -> Result<bool, String> {
    let mut input = BufReader::new(Unblock::new(io::stdin()));
    let mut progress = Progress::new();
    let (mut line, mut last) = (Vec::new(), Vec::new());
    loop {
        let mut pipeline = client.pipeline();
        let mut ended = false;
        while pipeline.len() < SENT_LINES && !ended {
            line.clear();
            let read = input.read_until(b'\n', &mut line).await;
            ended = read.map_err(|error| format!("can't read: {error}"))? == 0;
            if !ended {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                pipeline = add(pipeline, text, &mut last)
                    .ok_or_else(|| format!("line {} is no KEY:VALUE", progress.lines + 1))?;
                progress.lines += 1;
            }
        }
        if !pipeline.is_empty() {
            let first = progress.lines + 1 - pipeline.len() as u64;
            for (outcome, number) in pipeline
                .send()
                .await
                .map_err(&failed)?
                .into_iter()
                .zip(first..)
            {
                outcome.map_err(|error| format!("line {number}: {}", failed(error)))?;
            }
        }
        progress.show();
        if ended {
            return Ok(true);
        }
    }
}

/// `None` if the line has no key.
fn add<'a>(pipeline: Pipeline<'a>, line: &[u8], last: &mut Vec<u8>) -> Option<Pipeline<'a>> {
    let colon = line.iter().position(|&byte| byte == b':');
    let colon = colon.filter(|&colon| colon > 0)?;
    let (key, value) = (&line[..colon], &line[colon + 1..]);
    if key == last.as_slice() {
        return Some(pipeline.put(key, value));
    }
    last.clear();
    last.extend_from_slice(key);
    Some(pipeline.set(key, value))
}

/// Says on a terminal how far it is, once a second.
struct Progress {
    lines: u64,
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            lines: 0,
            said: Instant::now(),
        }
    }

    fn show(&mut self) {
        if self.said.elapsed() >= Duration::from_secs(1) && io::stderr().is_terminal() {
            self.said = Instant::now();
            say(format_args!("{} lines are stored", self.lines));
        }
    }
}
