//! What Tab completes in line mode: commands, and keys that the server has.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, Secret};
use rustix::termios::tcgetwinsize;
use rustyline::completion::longest_common_prefix;
use smol::Timer;
use unicode_width::UnicodeWidthStr as _;

use crate::{
    say::{reason, shown},
    stream::Dialer,
};

/// How long the editor waits for keys.
const LIMIT: Duration = Duration::from_millis(300);

/// How many keys are listed.
const MOST: usize = 100;

/// What stands behind a command's word.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    /// A key and nothing else.
    Key,
    /// A key and more, so a colon ends it.
    KeyAndMore,
    /// Nothing that could be completed.
    Other,
}

const COMMANDS: [(&str, Behind); 15] = [
    ("Auth:", Behind::Other),
    ("Delete:", Behind::Key),
    ("Get:", Behind::Key),
    ("GetPrefix:", Behind::Key),
    ("Keys:", Behind::Key),
    ("Put:", Behind::KeyAndMore),
    ("Remove:", Behind::KeyAndMore),
    ("Set:", Behind::KeyAndMore),
    ("Stats", Behind::Other),
    ("Sync", Behind::Other),
    ("Unwatch:", Behind::Key),
    ("UnwatchPrefix:", Behind::Key),
    ("Update:", Behind::KeyAndMore),
    ("Watch:", Behind::Key),
    ("WatchPrefix:", Behind::Key),
];

/// The part of a line that the cursor is in, up to the cursor.
enum Part<'a> {
    Command(&'a str),
    Key { text: &'a str, more: bool },
    Other,
}

impl<'a> Part<'a> {
    fn of(line: &'a str, position: usize) -> Self {
        let before = &line[..position];
        // What was pasted may be several lines.
        let before = before.rsplit('\n').next().unwrap_or(before);
        let Some((word, text)) = before.split_once(':') else {
            return Part::Command(before);
        };
        let mut commands = COMMANDS.iter();
        let command = commands.find(|(name, _)| name.strip_suffix(':') == Some(word));
        match command {
            Some((_, behind)) if *behind != Behind::Other && !text.contains(':') => Part::Key {
                text,
                more: *behind == Behind::KeyAndMore,
            },
            _ => Part::Other,
        }
    }
}

/// Whether Tab completes there. Elsewhere it is a character like any other.
pub(crate) fn completes(line: &str, position: usize) -> bool {
    !matches!(Part::of(line, position), Part::Other)
}

/// The server whose keys are completed.
#[derive(Clone)]
pub(crate) struct Completion {
    pub(crate) dialer: Dialer,
    pub(crate) secret: Option<Secret>,
}

/// What Tab does to a line.
pub(crate) struct Completed {
    /// Where the completed part begins.
    pub(crate) start: usize,
    /// What stands there from now on; nothing if nothing fits.
    pub(crate) text: Option<String>,
    /// What is to be shown above the line.
    pub(crate) shown: String,
}

impl Completion {
    pub(crate) fn complete(&self, line: &str, position: usize) -> Completed {
        let (part, found) = match Part::of(line, position) {
            Part::Command(word) => (word, Found::commands(word)),
            Part::Key { text, more } => {
                let colon = more && !line[position..].starts_with(':');
                (text, self.keys(text, if colon { ":" } else { "" }))
            }
            Part::Other => ("", Found::default()),
        };
        let longest = match found.note.is_empty() {
            true => longest_common_prefix(&found.candidates),
            // There may be others, so nobody knows what they have in common.
            false => Some(part),
        };
        let text = longest.unwrap_or(part).to_owned();
        let mut shown = String::new();
        if text == part && (found.candidates.len() > 1 || !found.note.is_empty()) {
            let columns = tcgetwinsize(std::io::stdout()).map_or(80, |size| size.ws_col.into());
            shown = table(&found.candidates, columns);
            shown.push_str(&found.note);
        }
        let fits = !found.candidates.is_empty() || !shown.is_empty();
        Completed {
            start: position - part.len(),
            text: fits.then_some(text),
            shown,
        }
    }

    /// The keys that begin so, of which each is followed by this.
    fn keys(&self, prefix: &str, behind: &str) -> Found {
        let mut found = Found::default();
        let answers = self.ask(prefix.to_owned());
        let end = Instant::now() + LIMIT;
        found.note = loop {
            match answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Answer::Key(_)) if found.candidates.len() == MOST => {
                    break format!("... more than {MOST} keys\n");
                }
                Ok(Answer::Key(key)) => found.candidates.push(key + behind),
                Ok(Answer::End(Ok(()))) => break String::new(),
                Ok(Answer::End(Err(error))) => {
                    break format!("... no keys: {}\n", shown(error.as_bytes()));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let limit = LIMIT.as_secs_f64();
                    break format!("... the server has not sent all keys within {limit} s\n");
                }
            }
        };
        found.candidates.sort_unstable();
        found
    }

    /// Asks on a connection of its own, as line mode shows all that comes by the other one. A thread
    /// does so, so that the editor waits for no longer than its limit, whatever the connection does.
    fn ask(&self, prefix: String) -> Receiver<Answer> {
        let (sender, receiver) = sync_channel(MOST);
        let (dialer, secret) = (self.dialer.clone(), self.secret.clone());
        thread::spawn(move || {
            let asking = async {
                let client = Client::from_stream(dialer.dial_within(None).await?);
                if let Some(secret) = &secret {
                    let authenticated = client.authenticate(secret).await;
                    authenticated.map_err(|error| reason(&error))?;
                }
                let mut keys = client.keys(prefix);
                while let Some(key) = keys.next().await {
                    let (key, _) = key.map_err(|error| reason(&error))?;
                    // An error says that the editor has had enough.
                    if let Some(key) = typeable(key)
                        && sender.send(Answer::Key(key)).is_err()
                    {
                        break;
                    }
                }
                Ok(())
            };
            let late = async {
                // The editor does not wait for so long.
                Timer::after(2 * LIMIT).await;
                Err("no answer".to_owned())
            };
            let end = smol::block_on(future::or(asking, late));
            let _ = sender.send(Answer::End(end));
        });
        receiver
    }
}

enum Answer {
    Key(String),
    End(Result<(), String>),
}

#[derive(Default)]
struct Found {
    candidates: Vec<String>,
    /// Why this may not be all; empty if it is.
    note: String,
}

impl Found {
    fn commands(word: &str) -> Self {
        let names = COMMANDS.iter().map(|(name, _)| *name);
        let candidates = names.filter(|name| name.starts_with(word));
        Self {
            candidates: candidates.map(str::to_owned).collect(),
            note: String::new(),
        }
    }
}

/// A key that can be edited, and is shown as it is: others may hold commands to the terminal.
fn typeable(key: Vec<u8>) -> Option<String> {
    let key = String::from_utf8(key).ok()?;
    (!key.contains('\t') && shown(key.as_bytes()) == key).then_some(key)
}

/// Sorted downwards, in as many columns as there is room for.
fn table(items: &[String], columns: usize) -> String {
    let widest = items.iter().map(|item| item.width()).max().unwrap_or(0);
    let across = (columns / (widest + 2)).max(1);
    let rows = items.len().div_ceil(across);
    let mut text = String::new();
    for row in 0..rows {
        let mut padding = 0;
        for item in items.iter().skip(row).step_by(rows) {
            text.extend(std::iter::repeat_n(' ', padding));
            text.push_str(item);
            padding = widest + 2 - item.width();
        }
        text.push('\n');
    }
    text
}
