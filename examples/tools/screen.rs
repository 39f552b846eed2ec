//! What a terminal shows: lines that others chose, fit for eyes.

use std::{
    env::var_os,
    io::{self, Write},
};

use crate::say::shown;

/// Shows whole lines: errors in red, and no byte that would be a command to the terminal.
pub(super) struct Screen {
    show: Box<dyn FnMut(String) -> io::Result<()> + Send>,
    unfinished: Vec<u8>,
    colour: bool,
}

impl Screen {
    /// A terminal on which nothing is edited.
    pub(super) fn plain() -> Self {
        Self::new(|text| write(&text))
    }

    pub(super) fn new(show: impl FnMut(String) -> io::Result<()> + Send + 'static) -> Self {
        Self {
            show: Box::new(show),
            unfinished: Vec::new(),
            colour: var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && var_os("TERM").is_some_and(|value| value != "dumb"),
        }
    }

    fn push_line(&self, line: &[u8], text: &mut String) {
        let line_shown = shown(line);
        match self.colour && line.starts_with(b":error:") {
            true => text.extend(["\x1b[31m", &line_shown, "\x1b[0m\n"]),
            false => text.extend([&line_shown, "\n"]),
        }
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else {
            self.unfinished.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        self.unfinished.extend_from_slice(&bytes[..end]);
        let mut text = String::new();
        for line in self.unfinished.split(|&byte| byte == b'\n') {
            self.push_line(line, &mut text);
        }
        self.unfinished.clear();
        self.unfinished.extend_from_slice(&bytes[end + 1..]);
        (self.show)(text)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
