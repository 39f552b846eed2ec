//! What the server prints, which nobody has to read.
//!
//! A terminal that was stopped with Ctrl-S and a full pipe make `write` wait, for ever if need be.
//! So a thread of its own writes, and what serves clients only puts lines into a bounded queue.

use std::{
    cell::Cell,
    convert::Infallible,
    fmt::Display,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// Lines that may wait to be written. Enough for any burst that a reader gets through, and small
/// beside a client's outbox.
const QUEUED_LINES: usize = 1000;

/// How long the exit waits for a stream to take what is queued.
const FINISH: Duration = Duration::from_secs(1);

/// Standard output and standard error.
pub(crate) struct Output {
    pub(crate) out: Printer,
    pub(crate) err: Printer,
}

impl Output {
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self {
            out: Printer::start(io::stdout())?,
            err: Printer::start(io::stderr())?,
        })
    }

    pub(crate) fn finish(self) {
        self.out.finish();
        self.err.finish();
    }
}

/// Writes lines to a stream, in order, without making its caller wait.
pub(crate) struct Printer {
    lines: Sender<Line>,
    queued: Arc<AtomicUsize>,
    /// Lines that found no room since the last one that did.
    left_out: Cell<u64>,
    /// Disconnected when the thread has ended.
    ended: Receiver<Infallible>,
}

struct Line {
    /// How many lines are missing before this one.
    left_out: u64,
    text: String,
}

impl Printer {
    pub(crate) fn start(mut stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = mpsc::channel::<Line>();
        let queued = Arc::new(AtomicUsize::new(0));
        let (end, ended) = mpsc::channel();
        let waiting = queued.clone();
        thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                let _end = end;
                for line in queue {
                    // A stream that is full or closed is no reason to stop.
                    let _ = line.write(&mut stream);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            })?;
        Ok(Self {
            lines,
            queued,
            left_out: Cell::new(0),
            ended,
        })
    }

    /// Queues a line. If there is no room, the line is left out, and the next one says so.
    pub(crate) fn line(&self, text: impl Display) {
        // Nobody else adds to the queue, as a `Printer` is not `Sync`.
        if self.queued.load(Ordering::Relaxed) < QUEUED_LINES {
            self.queue(text.to_string());
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
    }

    fn queue(&self, text: String) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        let left_out = self.left_out.take();
        // The thread ends only after the queue is closed.
        let _ = self.lines.send(Line { left_out, text });
    }

    /// Waits until everything is written, for a short time at the most.
    pub(crate) fn finish(self) {
        if self.left_out.get() > 0 {
            self.queue(String::new());
        }
        drop(self.lines);
        let _ = self.ended.recv_timeout(FINISH);
    }
}

impl Line {
    fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut text = String::new();
        if self.left_out > 0 {
            text = format!("{} lines left out\n", self.left_out);
        }
        if !self.text.is_empty() {
            text.push_str(&self.text);
            text.push('\n');
        }
        stream.write_all(text.as_bytes())?;
        stream.flush()
    }
}
