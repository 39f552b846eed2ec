//! A terminal at the client's line mode: editing and history on the way in, and on the way out
//! what is fit for eyes.

use std::{
    collections::VecDeque,
    env::var_os,
    fmt::Write as _,
    io::{self, Read, Write},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler,
    ExternalPrinter, KeyEvent, Movement, RepeatCount, error::ReadlineError, history::MemHistory,
};

/// Both ends of the terminal; nothing where it can't be edited on, as with TERM=dumb.
pub(crate) fn editor() -> Option<(Typed, Screen)> {
    let config = Config::builder().auto_add_history(true).build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history).ok()?;
    let leave = EventHandler::Conditional(Box::new(ClearOrLeave));
    editor.bind_sequence(KeyEvent::ctrl('c'), leave);
    // The editor can't tell when a program of several threads has been stopped, and would come back
    // with the terminal in the wrong mode.
    editor.bind_sequence(KeyEvent::ctrl('z'), Cmd::Noop);
    let mut printer = editor.create_external_printer().ok()?;
    let screen = Screen::new(move |text| printer.print(text).map_err(io::Error::other));
    let rest = VecDeque::new();
    Some((Typed { editor, rest }, screen))
}

/// An input that is not asked again once it has ended: a terminal would go on with the next line.
pub(crate) struct Input<R> {
    from: R,
    ended: bool,
}

impl<R> Input<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, ended: false }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let read = self.from.read(buffer)?;
        self.ended = read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

/// What is typed, as bytes. It ends with Ctrl-D, or Ctrl-C, on an empty line.
pub(crate) struct Typed {
    editor: Editor<(), MemHistory>,
    rest: VecDeque<u8>,
}

impl Read for Typed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.editor.readline("> ") {
                Ok(line) => {
                    self.rest.extend(line.into_bytes());
                    self.rest.push_back(b'\n');
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(0),
                Err(ReadlineError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        self.rest.read(buffer)
    }
}

struct ClearOrLeave;

impl ConditionalEventHandler for ClearOrLeave {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        Some(match at.line() {
            "" => Cmd::Interrupt,
            _ => Cmd::Kill(Movement::WholeBuffer),
        })
    }
}

/// Shows whole lines: errors in red, and no byte that would be a command to the terminal.
pub(crate) struct Screen {
    show: Box<dyn FnMut(String) -> io::Result<()> + Send>,
    unfinished: Vec<u8>,
    colour: bool,
}

impl Screen {
    pub(crate) fn new(show: impl FnMut(String) -> io::Result<()> + Send + 'static) -> Self {
        Self {
            show: Box::new(show),
            unfinished: Vec::new(),
            colour: var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && var_os("TERM").is_some_and(|value| value != "dumb"),
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
            if self.colour && line.starts_with(b":error:") {
                text.push_str("\x1b[31m");
                push_shown(line, &mut text);
                text.push_str("\x1b[0m");
            } else {
                push_shown(line, &mut text);
            }
            text.push('\n');
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

fn push_shown(line: &[u8], text: &mut String) {
    for part in line.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\t' => text.push(c),
                c if c.is_ascii_control() => push_hex(c as u8, text),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for &byte in part.invalid() {
            push_hex(byte, text);
        }
    }
}

fn push_hex(byte: u8, text: &mut String) {
    // Writing to a `String` does not fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Gives the terminal back as it was, also where the prompt still stands.
pub(crate) struct Restored(Option<Termios>);

impl Restored {
    pub(crate) fn new() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let (Some(before), Ok(now)) = (&self.0, tcgetattr(io::stdin())) else {
            return;
        };
        if now.local_modes != before.local_modes {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
            // The prompt stands there, and asks for pastes in brackets.
            let _ = io::stdout().write_all(b"\x1b[?2004l\n");
        }
    }
}
