//! The log: what happens to the server, for those who operate it. It goes to standard error.
//!
//! The events are this program's and the library's, under one target. None holds a key, a value or a secret.

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write},
    str::FromStr as _,
};

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _};

use crate::output::Lines;

/// The library's target, too.
pub(crate) const TARGET: &str = "keywire";

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// A line for a person
    Text,
    /// A JSON object a line
    Json,
}

/// A level, or directives as `tracing` has them: `warn`, or `off,keywire=debug`.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    let targets = Targets::from_str(text)
        .ok()
        .filter(|_| !text.split(',').all(|part| part.trim().is_empty()));
    let targets = targets.ok_or("it has to be off, error, warn, info, debug or trace")?;
    // A misspelt level is the name of a target, and would turn the log off.
    match targets.iter().find(|(target, _)| *target != TARGET) {
        Some((target, _)) => Err(format!(
            "{target:?} is no level, and the only target is {TARGET}; levels are off, error, warn, info, debug \
             and trace"
        )),
        None => Ok(targets),
    }
}

/// From here on, events go to these lines. They never wait for whoever reads the lines.
pub(crate) fn start(filter: Targets, format: Format, lines: &Lines) -> Result<(), Box<dyn Error>> {
    let lines = Queue(lines.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    let events = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => {
            let layer = layer.with_ansi(has_colours());
            tracing::subscriber::set_global_default(events.with(layer))?;
        }
        Format::Json => {
            let layer = layer.json().flatten_event(true);
            let layer = layer.with_current_span(false).with_span_list(false);
            tracing::subscriber::set_global_default(events.with(layer))?;
        }
    }
    Ok(())
}

fn has_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Why the program ends. It is said even if the log is off.
pub(crate) fn fatal(error: &dyn Error, format: Format, lines: &Lines) {
    if format == Format::Json && tracing::enabled!(target: TARGET, Level::ERROR) {
        tracing::error!(target: TARGET, "{error}");
    } else {
        lines.add(format_args!("error: {error}"));
    }
}

/// An event is written in one piece, and is one line of the queue.
struct Queue(Lines);

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event(&self.0)
    }
}

struct Event<'a>(&'a Lines);

impl Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
