//! Bytes → lines.

use std::fmt;

use memchr::{memchr, memchr_iter, memrchr};

/// The bytes of a line that are kept however low the limit is: they may show another protocol by
/// `Host:`.
const FIRST_BYTES: usize = 5;

/// Cuts a stream of bytes into lines, whatever the sizes of the reads it came in.
///
/// It keeps only the beginning of a line whose end has not come yet, and looks at each byte once. Of a
/// line longer than the limit it keeps just enough to know that it is too long, so it never holds
/// more than the limit and 5 bytes.
///
/// ```
/// use keywire::protocol::{LineDecoder, LineTooLong};
///
/// let mut lines = LineDecoder::new(8);
/// let block = lines.push(b"short\nmuch too long\r\n\nlast\n");
/// let cut: Vec<_> = block.iter().collect();
/// assert_eq!(cut, [Ok(&b"short"[..]), Err(LineTooLong), Ok(b""), Ok(b"last")]);
/// ```
pub struct LineDecoder {
    max: usize,
    /// The beginning of the line that has not ended yet, cut to `max + 2` bytes or more: even if the
    /// last of them is a CR, the line still shows that it is longer than `max`.
    partial: Vec<u8>,
    /// Whether a CR before the LF belongs to the line.
    keeps_cr: bool,
}

impl LineDecoder {
    /// Lines of at most `max` bytes each, the line ending not counted.
    ///
    /// ```
    /// use keywire::protocol::LineDecoder;
    ///
    /// let block = LineDecoder::new(3).push(b"abc\r\n");
    /// assert_eq!(block.iter().next(), Some(Ok(&b"abc"[..])));
    /// ```
    pub fn new(max: usize) -> Self {
        Self {
            max,
            partial: Vec::new(),
            keeps_cr: false,
        }
    }

    /// Lines of a server, which ends them with an LF alone: a CR before it is part of a value.
    pub(crate) fn keeping_cr(max: usize) -> Self {
        Self {
            keeps_cr: true,
            ..Self::new(max)
        }
    }

    /// Takes the bytes of one read and returns the lines that are whole now.
    ///
    /// ```
    /// use keywire::protocol::LineDecoder;
    ///
    /// let mut lines = LineDecoder::new(100);
    /// assert!(lines.push(b"half a").is_empty());
    /// assert_eq!(lines.push(b" line\n").iter().next(), Some(Ok(&b"half a line"[..])));
    /// ```
    pub fn push(&mut self, bytes: &[u8]) -> LineBlock {
        self.push_into(bytes, Vec::with_capacity)
    }

    /// Like [`push`](Self::push), with memory for the lines that this function gives, empty and with
    /// room for so many bytes.
    pub(crate) fn push_into(
        &mut self,
        bytes: &[u8],
        buffer: impl FnOnce(usize) -> Vec<u8>,
    ) -> LineBlock {
        let Some(last) = memrchr(b'\n', bytes) else {
            self.retain_partial(bytes);
            return LineBlock::new(self, Vec::new());
        };
        let (whole, rest) = bytes.split_at(last + 1);
        let mut first = 0;
        if !self.partial.is_empty() {
            // `whole` ends in an LF, so the search finds one.
            first = memchr(b'\n', whole).unwrap_or(last);
            self.retain_partial(&whole[..first]);
        }
        let begun = std::mem::take(&mut self.partial);
        let mut lines = buffer(begun.len() + whole.len() - first);
        lines.extend_from_slice(&begun);
        lines.extend_from_slice(&whole[first..]);
        self.retain_partial(rest);
        LineBlock::new(self, lines)
    }

    /// Whether a line has begun and not ended.
    ///
    /// ```
    /// use keywire::protocol::LineDecoder;
    ///
    /// let mut lines = LineDecoder::new(100);
    /// lines.push(b"whole\nhalf");
    /// assert!(lines.is_partial());
    /// ```
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// How much of that line is kept. More than the limit shows, before its end has come, that it
    /// is too long.
    pub(crate) fn held(&self) -> usize {
        self.partial.len()
    }

    /// What is kept of that line.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    fn retain_partial(&mut self, bytes: &[u8]) {
        let room = self.max.saturating_add(2).max(FIRST_BYTES) - self.partial.len();
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl fmt::Debug for LineDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineDecoder")
            .field("max", &self.max)
            .field("partial", &super::Redacted(&self.partial))
            .finish()
    }
}

/// The whole lines of one read.
///
/// See [`LineDecoder`] for an example.
#[derive(Default)]
pub struct LineBlock {
    max: usize,
    keeps_cr: bool,
    /// Empty, or whole lines: the last byte is an LF.
    bytes: Vec<u8>,
}

impl LineBlock {
    fn new(lines: &LineDecoder, bytes: Vec<u8>) -> Self {
        Self {
            max: lines.max,
            keeps_cr: lines.keeps_cr,
            bytes,
        }
    }

    /// An empty block to which lines are added, in this buffer.
    pub(crate) fn page(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            max: usize::MAX,
            keeps_cr: true,
            bytes: buffer,
        }
    }

    /// Adds a line of these parts, none of which holds an LF.
    pub(crate) fn push_line(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(b'\n');
    }

    /// Whether no line begins at `at`.
    pub(crate) fn is_end(&self, at: usize) -> bool {
        at >= self.bytes.len()
    }

    /// Whether there is no line in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The lines in order, without their endings, blank ones too. A line that is too long is an
    /// error in its place, so that counting goes on.
    pub fn iter(&self) -> impl Iterator<Item = Result<&[u8], LineTooLong>> {
        let mut at = 0;
        std::iter::from_fn(move || self.line_at(&mut at))
    }

    /// The line that begins at `at`; moves `at` to the next one.
    pub(crate) fn line_at(&self, at: &mut usize) -> Option<Result<&[u8], LineTooLong>> {
        let rest = &self.bytes[*at..];
        let end = memchr(b'\n', rest)?;
        *at += end + 1;
        let line = match rest[..end].strip_suffix(b"\r") {
            Some(line) if !self.keeps_cr => line,
            _ => &rest[..end],
        };
        Some(if line.len() > self.max {
            Err(LineTooLong)
        } else {
            Ok(line)
        })
    }

    /// Takes up to so many lines off the front, and says how many there were.
    pub(crate) fn split_to(&mut self, lines: usize) -> (LineBlock, usize) {
        let mut found = 0;
        let mut end = 0;
        for lf in memchr_iter(b'\n', &self.bytes).take(lines) {
            found += 1;
            end = lf + 1;
        }
        let rest = self.bytes.split_off(end);
        let front = LineBlock {
            bytes: std::mem::replace(&mut self.bytes, rest),
            ..*self
        };
        (front, found)
    }

    /// The lines with their endings.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives up the buffer, for something else to be written in it.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

impl fmt::Debug for LineBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LineBlock")
            .field(&super::Redacted(&self.bytes))
            .finish()
    }
}

/// A line was longer than the limit. Its bytes are gone, up to its line feed.
///
/// ```
/// use keywire::protocol::{LineDecoder, LineTooLong};
///
/// let block = LineDecoder::new(3).push(b"four\n");
/// assert_eq!(block.iter().next(), Some(Err(LineTooLong)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineTooLong;

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line is longer than the limit")
    }
}

impl std::error::Error for LineTooLong {}
