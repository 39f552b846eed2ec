//! Clients that send lines of all kinds and compare the answers with the model. It wants `fastrand`.

use std::{io::Write as _, net::Shutdown, thread};

use crate::common::{
    Client,
    model::{Model, assert_answers},
};

/// The server's `max_line`.
pub(crate) const MAX_LINE: usize = 64;

/// The lines of a client, about few keys: mostly right, sometimes wrong or too long.
#[derive(Clone, Copy)]
pub(crate) struct Mixed {
    /// What stands in keys.
    pub(crate) tags: &'static [&'static str],
    /// Whether it watches some of its keys.
    pub(crate) watches: bool,
}

impl Mixed {
    pub(crate) fn line(self, random: &mut fastrand::Rng, prefix: &str) -> Vec<u8> {
        let tag = self.tags[random.usize(..self.tags.len())];
        let key = format!("{prefix}{tag}{}", random.u8(..8));
        let value = ["", "1", "2", "a:b", ":", "a longer value", "\0\r1"][random.usize(..7)];
        let old = ["", "1", "2", "absent"][random.usize(..4)];
        let end = ["\n", "\n", "\n", "\r\n"][random.usize(..4)];
        let walked = &key[..random.usize(prefix.len()..=key.len())];
        let kinds = if self.watches { 28 } else { 24 };
        let line = match random.u8(..kinds) {
            0..=5 => format!("Put:{key}:{value}"),
            6..=10 => format!("Get:{key}"),
            11..=15 => format!("Update:{key}:{old}:{value}"),
            16 => format!("Delete:{key}"),
            17 => format!("Sync:{value}"),
            18 => {
                let wrong = [
                    "",
                    "Put:x",
                    "get:x",
                    "Stats",
                    "Get::",
                    "Update:x:y",
                    "Watch:",
                ];
                wrong[random.usize(..wrong.len())].into()
            }
            19 => format!("Set:{key}:{value}"),
            20 => format!("Remove:{key}:{old}"),
            21 => format!("GetPrefix:{walked}"),
            22 => format!("Keys:{walked}"),
            23 => "x".repeat(random.usize(..2 * MAX_LINE)),
            24 => format!("Watch:{key}"),
            25 => format!("WatchPrefix:{walked}"),
            26 => format!("Unwatch:{key}"),
            _ => format!("UnwatchPrefix:{walked}"),
        };
        (line + end).into_bytes()
    }

    /// Sends lines in pieces of any size, and checks the answers.
    pub(crate) fn converse(self, mut client: Client, seed: u64, prefix: &str) -> Model {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut model = Model::new(MAX_LINE);
        let mut input = Vec::new();
        for _ in 0..random.usize(1..=1500) {
            input.extend(self.line(&mut random, prefix));
        }
        let expected = model.converse(&input);
        thread::scope(|scope| {
            let mut sender = client.stream().try_clone().unwrap();
            scope.spawn(move || {
                let mut rest = &input[..];
                while !rest.is_empty() {
                    let (piece, later) = rest.split_at(random.usize(1..=rest.len().min(4000)));
                    sender.write_all(piece).unwrap();
                    rest = later;
                }
                sender.shutdown(Shutdown::Write).unwrap();
            });
            let mut output = Vec::new();
            while let Some(line) = client.line() {
                output.extend(line);
                output.push(b'\n');
            }
            assert_answers(&output, &expected);
        });
        model
    }
}
