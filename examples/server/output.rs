//! What the server prints, which nobody has to read.
//!
//! A terminal that was stopped with Ctrl-S and a full pipe make `write` wait, for ever if need be.
//! So a thread of its own writes, and what serves clients only puts lines into a bounded queue.

use std::{
    convert::Infallible,
    fmt::Display,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

/// Lines that may wait to be written. Enough for any burst that a reader gets through, and small
/// beside a client's outbox.
const QUEUED_LINES: usize = 1000;

/// How long the exit waits for a stream to take what is queued.
const FINISH: Duration = Duration::from_secs(1);

/// Says how many lines are missing.
pub(crate) type Notice = fn(u64) -> String;

pub(crate) fn text_notice(lines: u64) -> String {
    format!("{lines} lines left out")
}

/// An event, like those around it.
pub(crate) fn json_notice(lines: u64) -> String {
    let mut now = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    format!(
        "{{\"timestamp\":\"{now}\",\"level\":\"WARN\",\"message\":\"lines left out\",\
         \"lines\":{lines},\"target\":\"keywire\"}}"
    )
}

/// Standard output and standard error.
pub(crate) struct Output {
    pub(crate) out: Printer,
    pub(crate) err: Printer,
}

impl Output {
    /// The log is on standard error, and so is what says that a part of it is missing.
    pub(crate) fn start(log_notice: Notice) -> io::Result<Self> {
        Ok(Self {
            out: Printer::start(io::stdout(), text_notice)?,
            err: Printer::start(io::stderr(), log_notice)?,
        })
    }

    pub(crate) fn finish(self) {
        self.out.finish();
        self.err.finish();
    }
}

/// Writes lines to a stream, in order, without making its caller wait.
pub(crate) struct Printer {
    lines: Lines,
    /// Disconnected when the thread has ended.
    ended: Receiver<Infallible>,
}

/// The queue of a printer. Any thread may add to it.
#[derive(Clone)]
pub(crate) struct Lines {
    queue: Sender<Line>,
    queued: Arc<AtomicUsize>,
    /// Lines that found no room since the last one that did.
    left_out: Arc<AtomicU64>,
}

struct Line {
    /// How many lines are missing before this one.
    left_out: u64,
    text: String,
    /// Nothing is written after it.
    is_last: bool,
}

impl Printer {
    pub(crate) fn start(
        mut stream: impl Write + Send + 'static,
        notice: Notice,
    ) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel::<Line>();
        let queued = Arc::new(AtomicUsize::new(0));
        let (end, ended) = mpsc::channel();
        let waiting = queued.clone();
        thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                let _end = end;
                for line in lines {
                    // A stream that is full or closed is no reason to stop.
                    let _ = line.write(&mut stream, notice);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    if line.is_last {
                        break;
                    }
                }
            })?;
        let lines = Lines {
            queue,
            queued,
            left_out: Arc::default(),
        };
        Ok(Self { lines, ended })
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Queues a line. If there is no room, the line is left out, and the next one says so.
    pub(crate) fn line(&self, text: impl Display) {
        self.lines.add(text);
    }

    /// Waits until everything is written, for a short time at the most.
    pub(crate) fn finish(self) {
        self.lines.queued.fetch_add(1, Ordering::Relaxed);
        self.lines.send(String::new(), true);
        let _ = self.ended.recv_timeout(FINISH);
    }
}

impl Lines {
    pub(crate) fn add(&self, text: impl Display) {
        if self.queued.fetch_add(1, Ordering::Relaxed) < QUEUED_LINES {
            self.send(text.to_string(), false);
        } else {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&self, text: String, is_last: bool) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        // After the last line the thread is gone.
        let _ = self.queue.send(Line {
            left_out,
            text,
            is_last,
        });
    }
}

impl Line {
    fn write(&self, stream: &mut impl Write, notice: Notice) -> io::Result<()> {
        let mut text = String::new();
        if self.left_out > 0 {
            text = notice(self.left_out) + "\n";
        }
        if !self.text.is_empty() {
            text.push_str(&self.text);
            text.push('\n');
        }
        stream.write_all(text.as_bytes())?;
        stream.flush()
    }
}
