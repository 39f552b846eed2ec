//! The record of all that went one way.

use std::fmt;

use crate::world::Moment;

/// All that went one way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Direction {
    pub(crate) lines: Vec<Line>,
    /// A line without its end.
    pub(crate) rest: Vec<u8>,
    pub(super) rest_begun: Moment,
    pub(super) rest_offered: Moment,
    /// When what is being written was first to be written.
    pub(super) offered: Moment,
    /// When the pipe has taken bytes; the first is when it was made.
    pub(crate) writes: Vec<Moment>,
    /// When the pipe first took something of what is being written, and of what came before that.
    pub(crate) chunks: [Moment; 2],
    pub(crate) reads: Vec<Read>,
    /// When the first byte of each line was read.
    pub(crate) starts: Vec<Moment>,
    pub(super) lines_read: usize,
    pub(super) ends_read: usize,
    /// The writer has said that nothing follows.
    pub(crate) closed: Option<Moment>,
    /// The reader has read that.
    pub(crate) read_end: Option<Moment>,
    /// Nothing can be written any more, or nothing read.
    pub(crate) over: Option<Moment>,
    pub(crate) reset: bool,
    /// When the reader first looked.
    pub(crate) looked: Option<Moment>,
    /// The writer's end is gone.
    pub(crate) left: Option<Moment>,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: Vec<u8>,
    /// When it, and what it came with, was first to be written.
    pub(crate) offered: Moment,
    /// When its first byte was written, and its last.
    pub(crate) begun: Moment,
    pub(crate) written: Moment,
    /// When its end was read.
    pub(crate) read: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) at: Moment,
    /// Ends of lines read so far.
    pub(crate) lines: usize,
    /// When the reader had last found nothing.
    pub(crate) waited: Option<Moment>,
}

/// For the one who looks into a run.
impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            let text = String::from_utf8_lossy(&line.text);
            let Line {
                begun,
                written,
                read,
                ..
            } = line;
            let read = read.map(|read| read.tick);
            writeln!(
                f,
                "  {text}  begun {begun:?}, written {}, read {read:?}",
                written.tick
            )?;
        }
        let Direction {
            closed,
            read_end,
            over,
            reset,
            left,
            ..
        } = self;
        writeln!(
            f,
            "  closed {closed:?}, end read {read_end:?}, over {over:?}, reset {reset}, left {left:?}"
        )
    }
}

impl Direction {
    pub(super) fn write(&mut self, bytes: &[u8], at: Moment) {
        self.writes.push(at);
        for &byte in bytes {
            if self.rest.is_empty() {
                self.rest_begun = at;
                self.rest_offered = self.offered;
            }
            self.rest.push(byte);
            if byte == b'\n' {
                let mut text = std::mem::take(&mut self.rest);
                text.pop();
                self.lines.push(Line {
                    text,
                    offered: self.rest_offered,
                    begun: self.rest_begun,
                    written: at,
                    read: None,
                });
            }
        }
    }

    pub(super) fn read(&mut self, bytes: &[u8], at: Moment, waited: Option<Moment>) {
        for &byte in bytes {
            if self.starts.len() == self.ends_read {
                self.starts.push(at);
            }
            self.ends_read += usize::from(byte == b'\n');
        }
        let ends = bytes.iter().filter(|&&byte| byte == b'\n').count();
        for line in &mut self.lines[self.lines_read..][..ends] {
            line.read = Some(at);
        }
        self.lines_read += ends;
        let lines = self.lines_read;
        self.reads.push(Read { at, lines, waited });
    }

    /// Lines whose ends had been read before.
    pub(crate) fn read_before(&self, moment: Moment) -> usize {
        self.lines
            .partition_point(|line| line.read.is_some_and(|read| read < moment))
    }

    /// When bytes were last taken before this.
    pub(crate) fn last_write_before(&self, moment: Moment) -> Moment {
        let writes = self.writes.partition_point(|write| *write < moment);
        self.writes[writes - 1]
    }
}
