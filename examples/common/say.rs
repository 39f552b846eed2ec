//! Text for a person: what goes to standard error, and bytes that others chose on a terminal.

// Each program uses its own part of this.
#![allow(dead_code)]

use std::{
    error::Error,
    fmt::{Display, Write as _},
    io::{self, IsTerminal as _, Write as _},
};

/// Prints one line to standard error. If that is full or closed, the line is lost and nothing else.
pub(crate) fn say(text: impl Display) {
    let mut line = text.to_string();
    if io::stderr().is_terminal() {
        line = shown(line.as_bytes());
    }
    line.push('\n');
    let _ = io::stderr().write_all(line.as_bytes());
}

/// An error with all its causes, each said once.
pub(crate) fn reason(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.extend([": ", &words]);
        }
        source = cause.source();
    }
    text
}

/// A line of bytes for standard output: as they are, unless that is a terminal.
pub(crate) fn line(bytes: &[u8]) -> Vec<u8> {
    let mut line = match io::stdout().is_terminal() {
        true => shown(bytes).into_bytes(),
        false => bytes.to_vec(),
    };
    line.push(b'\n');
    line
}

/// One line as a terminal may see it: what is printable as it is, all else escaped.
pub(crate) fn shown(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for part in line.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\t' => text.push(c),
                c if c.is_ascii_control() => push_hex(c as u8, &mut text),
                c if c.is_control() || reorders(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for &byte in part.invalid() {
            push_hex(byte, &mut text);
        }
    }
    text
}

/// Whether it begins another line, or makes what stands around it appear in another order.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_hex(byte: u8, text: &mut String) {
    // Writing to a `String` does not fail.
    let _ = write!(text, "\\x{byte:02x}");
}
