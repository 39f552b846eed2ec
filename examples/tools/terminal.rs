//! A terminal at which lines are typed while others come: in line mode, and in a chat.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, IsTerminal as _, Read, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event,
    EventContext, EventHandler, ExternalPrinter, Helper, KeyEvent, Movement, RepeatCount,
    completion::Completer, error::ReadlineError, highlight::Highlighter, hint::Hinter,
    history::FileHistory, validate::Validator,
};
use smol::Unblock;

#[path = "completion.rs"]
#[allow(dead_code, reason = "`chat` completes nothing")]
mod completion;
#[path = "history.rs"]
#[allow(dead_code, reason = "`chat` keeps no history")]
mod history;
#[path = "screen.rs"]
mod screen;

pub(crate) use completion::Completion;
pub(crate) use history::HistoryFile;
use screen::{Screen, write};

/// What goes with editing.
pub(crate) struct Editing {
    pub(crate) prompt: String,
    pub(crate) history: Option<HistoryFile>,
    pub(crate) completion: Option<Completion>,
}

/// Standard input and output, as they are used.
pub(crate) struct Streams {
    pub(crate) input: Unblock<Input<Box<dyn Read + Send>>>,
    pub(crate) output: Unblock<Box<dyn Write + Send>>,
    pub(crate) edited: bool,
}

impl Streams {
    /// With editing where a person sits at both ends, plain otherwise.
    pub(crate) fn new(editing: impl FnOnce() -> Editing) -> Self {
        let (typed, seen) = (io::stdin().is_terminal(), io::stdout().is_terminal());
        let editor = if typed && seen {
            editor(editing())
        } else {
            None
        };
        let edited = editor.is_some();
        let (input, output): (Box<dyn Read + Send>, Box<dyn Write + Send>) = match editor {
            Some((typed, screen)) => (Box::new(typed), Box::new(screen)),
            None if seen => (Box::new(io::stdin()), Box::new(Screen::plain())),
            None => (Box::new(io::stdin()), Box::new(io::stdout())),
        };
        Self {
            input: Unblock::new(Input::new(input)),
            output: Unblock::new(output),
            edited,
        }
    }
}

/// Both ends of the terminal; nothing where it can't be edited on, as with TERM=dumb.
fn editor(editing: Editing) -> Option<(Typed, Screen)> {
    let config = Config::builder()
        .max_history_size(history::LINES)
        .ok()?
        // Else NO_COLOR would keep it from asking for the prompt that we draw.
        .color_mode(ColorMode::Forced)
        // The other types hold back what comes until the next key.
        .completion_type(CompletionType::List)
        .build();
    let history = FileHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history).ok()?;
    let leave = EventHandler::Conditional(Box::new(ClearOrLeave));
    editor.bind_sequence(KeyEvent::ctrl('c'), leave);
    let tab = match editing.completion {
        Some(_) => EventHandler::Conditional(Box::new(CompleteOrInsert)),
        None => tab().into(),
    };
    editor.bind_sequence(KeyEvent::from('\t'), tab);
    // The editor can't tell when a program of several threads has been stopped, and would come back
    // with the terminal in the wrong mode.
    editor.bind_sequence(KeyEvent::ctrl('z'), Cmd::Noop);
    let raw = Raw::new().ok()?;
    let shared = Arc::new(Shared::default());
    let mut printer = editor.create_external_printer().ok()?;
    editor.set_helper(Some(Assistant {
        shared: shared.clone(),
        completion: editing.completion,
    }));
    let history = editing.history;
    let history = history.and_then(|file| file.load(editor.history_mut()));
    let waker = shared.clone();
    // A thread of its own, as this print waits while the one before it has not been noticed.
    thread::spawn(move || {
        waker.await_pending(true);
        while printer.print(REDRAW.into()).is_ok() {
            waker.await_pending(false);
            waker.await_pending(true);
        }
    });
    let screen = Screen::new({
        let shared = shared.clone();
        move |text| shared.show(text)
    });
    let typed = Typed {
        editor,
        prompt: editing.prompt,
        history,
        rest: VecDeque::new(),
        shared,
        raw: Some(raw),
    };
    Some((typed, screen))
}

/// Makes the editor draw its line again, and does nothing else: a row up, and one down.
const REDRAW: &str = "\x1bM\n";

/// What the editor and the screen have in common. As two write to one terminal, text goes there
/// either with this locked and no line being edited, or from the editor's own thread.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether a line is being edited.
    editing: bool,
    /// What is to be shown above this line.
    pending: String,
    /// The same, of what the editor itself has found for it.
    found: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the terminal has it.
    fn show(&self, text: String) -> io::Result<()> {
        let mut state = self.lock();
        if !state.editing {
            return write(&text);
        }
        state.pending = text;
        self.changed.notify_all();
        drop(state);
        self.await_pending(false);
        Ok(())
    }

    /// Returns when there is something that the editor has to show, or nothing any more.
    fn await_pending(&self, pending: bool) {
        let other = |state: &mut State| state.pending.is_empty() == pending;
        let waited = self.changed.wait_while(self.lock(), other);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn take_pending(&self) -> String {
        let mut state = self.lock();
        let text = std::mem::take(&mut state.pending);
        if !text.is_empty() {
            self.changed.notify_all();
        }
        text + &std::mem::take(&mut state.found)
    }

    fn begin_line(&self) {
        self.lock().editing = true;
    }

    /// What the editor left is shown before anything that comes later.
    fn end_line(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.editing = false;
        let text = std::mem::take(&mut state.pending);
        self.changed.notify_all();
        write(&text)
    }
}

/// What the editor asks while it edits a line.
struct Assistant {
    shared: Arc<Shared>,
    completion: Option<Completion>,
}

/// The prompt carries what is to be shown above it: the editor draws both in one go, in the row
/// where its line began.
impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        let mut text = self.shared.take_pending();
        text.push_str(prompt);
        text.into()
    }
}

/// Candidates are shown above the line as all else is. If the editor listed them, it would show
/// nothing of what comes until the next key.
impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let Some(completion) = &self.completion else {
            return Ok((position, Vec::new()));
        };
        let completed = completion.complete(line, position);
        self.shared.lock().found = completed.shown;
        Ok((completed.start, completed.text.into_iter().collect()))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Validator for Assistant {}
impl Helper for Assistant {}

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
    editor: Editor<Assistant, FileHistory>,
    prompt: String,
    history: Option<HistoryFile>,
    rest: VecDeque<u8>,
    shared: Arc<Shared>,
    raw: Option<Raw>,
}

impl Read for Typed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.shared.begin_line();
            let line = self.editor.readline(&self.prompt);
            self.shared.end_line()?;
            match line {
                Ok(line) => {
                    self.remember(&line);
                    self.rest.extend(line.into_bytes());
                    self.rest.push_back(b'\n');
                }
                end => {
                    // From here on Ctrl-C is a signal again.
                    self.raw = None;
                    return match end {
                        Err(ReadlineError::Io(error)) => Err(error),
                        Err(ReadlineError::Eof | ReadlineError::Interrupted) | Ok(_) => Ok(0),
                        Err(error) => Err(io::Error::other(error)),
                    };
                }
            }
        }
        self.rest.read(buffer)
    }
}

impl Typed {
    fn remember(&mut self, line: &str) {
        if history::is_kept(line) && matches!(self.editor.add_history_entry(line), Ok(true)) {
            let history = self.history.take();
            self.history = history.and_then(|file| file.append(self.editor.history_mut()));
        }
    }
}

/// A tab as it is. (A `SelfInsert` that is bound to a key repeats what was inserted last.)
fn tab() -> Cmd {
    Cmd::Insert(1, "\t".into())
}

struct CompleteOrInsert;

impl ConditionalEventHandler for CompleteOrInsert {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        Some(match completion::completes(at.line(), at.pos()) {
            true => Cmd::Complete,
            false => tab(),
        })
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

/// The terminal hands over each key as it is, also between two lines: one typed ahead then would
/// else be taken for the end of a line, or of the input, before the editor sees it.
struct Raw {
    before: Termios,
}

impl Raw {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        modes.make_raw();
        modes.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
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
        if now.local_modes == before.local_modes {
            return;
        }
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        // The prompt stands there, and asks for pastes in brackets. If the terminal takes nothing,
        // the thread that shows replies may wait for it with standard output locked.
        let out = io::stdout();
        let mut watched = [PollFd::new(&out, PollFlags::OUT)];
        if poll(&mut watched, Some(&Timespec::default())) == Ok(1) {
            let _ = rustix::io::write(&out, b"\x1b[?2004l\n");
        }
    }
}
