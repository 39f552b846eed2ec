//! RESP2: commands out, replies in; and of RESP3 what a connection for subscriptions brings.
//!
//! A reply is found in the bytes that were read, kept as it is, and read where the answer is written. So
//! a value is copied once on its way.

use memchr::memchr;

/// The longest length or number, with its line ending. What is longer is no RESP.
const MAX_HEADER: usize = 32;

/// Begins a command of so many arguments, its name included.
pub(super) fn push_array(out: &mut Vec<u8>, arguments: usize) {
    push_header(out, b'*', arguments);
}

pub(super) fn push_argument(out: &mut Vec<u8>, argument: &[u8]) {
    push_header(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// An argument made of parts.
pub(super) fn push_parts(out: &mut Vec<u8>, parts: &[&[u8]]) {
    push_header(out, b'$', parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn push_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    push_array(out, arguments.len());
    for argument in arguments {
        push_argument(out, argument);
    }
}

fn push_header(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The bytes are no RESP.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Finds the end of a reply. It goes on where it stopped, so that a reply that comes in many pieces is gone
/// through once.
#[derive(Debug)]
pub(super) struct Scanner {
    /// How far the reply was gone through.
    offset: usize,
    /// Elements that are still to come.
    elements: u64,
    /// Bytes of the last one that are still to be skipped.
    skipped: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            offset: 0,
            elements: 1,
            skipped: 0,
        }
    }
}

impl Scanner {
    fn expect(&mut self, elements: u64) -> Result<(), Malformed> {
        let all = self.elements.checked_add(elements);
        self.elements = all.ok_or(Malformed)?;
        Ok(())
    }

    /// The length of the reply that these bytes begin with, if it is whole. The same bytes have to come
    /// again, with more behind, until it is.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        while self.elements > 0 {
            let Some((kind, line, next)) = header(bytes, self.offset)? else {
                return Ok(None);
            };
            let end = next.checked_add(self.rest(kind, line)?).ok_or(Malformed)?;
            if end > bytes.len() {
                return Ok(None);
            }
            self.offset = end;
            self.elements -= 1;
        }
        let end = self.offset;
        *self = Self::default();
        Ok(Some(end))
    }

    /// Goes on behind what was scanned, and the bytes need not come again: how many are done with, and
    /// whether the reply ends there. What is not done with has to come again, with more behind.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut at = std::mem::take(&mut self.offset).min(bytes.len());
        loop {
            let length = self.skipped.min(bytes.len() - at);
            at += length;
            self.skipped -= length;
            if self.skipped > 0 {
                return Ok((at, false));
            }
            if self.elements == 0 {
                *self = Self::default();
                return Ok((at, true));
            }
            let Some((kind, line, next)) = header(bytes, at)? else {
                return Ok((at, false));
            };
            self.skipped = self.rest(kind, line)?;
            self.elements -= 1;
            at = next;
        }
    }

    /// Bytes of an element behind its line. Elements in it are expected.
    fn rest(&mut self, kind: u8, line: &[u8]) -> Result<usize, Malformed> {
        match kind {
            b'+' | b'-' | b':' | b'_' => {}
            b'$' | b'=' => {
                let length = number(line).ok_or(Malformed)?;
                if let Ok(length) = usize::try_from(length) {
                    return length.checked_add(2).ok_or(Malformed);
                }
            }
            b'*' => {
                let length = number(line).ok_or(Malformed)?;
                self.expect(u64::try_from(length).unwrap_or(0))?;
            }
            b'>' => self.expect(elements(line)?)?,
            b'%' => self.expect(elements(line)?.saturating_mul(2))?,
            _ => return Err(Malformed),
        }
        Ok(0)
    }
}

/// The kind, the rest of the line, and where the next begins.
type Header<'a> = (u8, &'a [u8], usize);

fn header(bytes: &[u8], offset: usize) -> Result<Option<Header<'_>>, Malformed> {
    let Some((&kind, rest)) = bytes.get(offset..).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let is_text = matches!(kind, b'+' | b'-');
    let Some(end) = memchr(b'\r', rest) else {
        return match is_text || rest.len() <= MAX_HEADER {
            true => Ok(None),
            false => Err(Malformed),
        };
    };
    match rest.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((kind, &rest[..end], offset + end + 3))),
        Some(_) => Err(Malformed),
    }
}

fn elements(line: &[u8]) -> Result<u64, Malformed> {
    let count = number(line).and_then(|count| u64::try_from(count).ok());
    count.ok_or(Malformed)
}

fn number(line: &[u8]) -> Option<i64> {
    if let &[digit @ b'0'..=b'9'] = line {
        return Some(i64::from(digit - b'0'));
    }
    let number = std::str::from_utf8(line).ok()?.parse().ok()?;
    (number < i64::MAX / 4).then_some(number)
}

/// A whole reply, where it was read to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    Text(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Bytes(&'a [u8]),
    Nil,
    Array(Replies<'a>),
}

impl<'a> Reply<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        Replies { bytes, left: 1 }.next()
    }

    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replies<'a> {
    /// From the next element on; what is behind the array may follow.
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Replies<'a> {
    /// The values of a list. The scanner has seen to it that they are whole.
    pub(super) fn values(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.map(|value| value.bytes().unwrap_or_default())
    }
}

impl<'a> Iterator for Replies<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let (kind, line, next) = header(self.bytes, 0).ok().flatten()?;
        let rest = &self.bytes[next..];
        let reply = match kind {
            b'+' => Reply::Text(line),
            b'-' => Reply::Error(line),
            b':' => Reply::Integer(number(line)?),
            b'_' => Reply::Nil,
            b'$' | b'=' => match usize::try_from(number(line)?) {
                Ok(length) => {
                    let value = rest.get(..length)?;
                    self.bytes = rest.get(length + 2..)?;
                    return Some(Reply::Bytes(value));
                }
                Err(_) => Reply::Nil,
            },
            b'*' | b'>' => match usize::try_from(number(line)?) {
                Ok(left) => {
                    let array = Replies { bytes: rest, left };
                    let end = Scanner::default().scan(self.bytes).ok().flatten()?;
                    self.bytes = &self.bytes[end..];
                    return Some(Reply::Array(array));
                }
                Err(_) => Reply::Nil,
            },
            _ => return None,
        };
        self.bytes = rest;
        Some(reply)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Replies<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &[u8] = b"*4\r\n:12\r\n$-1\r\n*2\r\n$2\r\n\r\n\r\n-ERR no\r\n+OK\r\n";

    #[test]
    fn a_reply_is_found_in_any_pieces() {
        let mut scanner = Scanner::default();
        for length in 0..REPLY.len() {
            assert_eq!(scanner.scan(&REPLY[..length]), Ok(None), "{length}");
        }
        let with_more = [REPLY, b":1\r\n"].concat();
        assert_eq!(scanner.scan(&with_more), Ok(Some(REPLY.len())));
        assert_eq!(scanner.scan(b":1\r\n"), Ok(Some(4)));
    }

    #[test]
    fn a_reply_is_read() {
        let Some(Reply::Array(mut replies)) = Reply::parse(REPLY) else {
            panic!();
        };
        assert_eq!(replies.len(), 4);
        assert_eq!(replies.next(), Some(Reply::Integer(12)));
        assert_eq!(replies.next(), Some(Reply::Nil));
        let Some(Reply::Array(mut inner)) = replies.next() else {
            panic!();
        };
        assert_eq!(inner.next(), Some(Reply::Bytes(b"\r\n")));
        assert_eq!(inner.next(), Some(Reply::Error(b"ERR no")));
        assert_eq!(replies.next(), Some(Reply::Text(b"OK")));
        assert_eq!(replies.next(), None);
    }

    #[test]
    fn what_is_no_reply_is_malformed() {
        let malformed: [&[u8]; 4] = [b"x\r\n", b"$x\r\n", b"*9223372036854775807\r\n", b"+a\rb"];
        for bytes in malformed {
            assert_eq!(Scanner::default().scan(bytes), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(Scanner::default().scan(&[b':'; 64]), Err(Malformed));
    }
}
