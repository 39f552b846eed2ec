//! What a server has to answer, written the plain way: one connection, one map, no batches.

use std::collections::BTreeMap;

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this, without the LF.
    Line(Vec<u8>),
    /// An error for this line, with this code and any words.
    Error(u64, &'static str),
    /// The counters, whatever they are.
    Stats,
}

/// The lists, and how a line changes them.
#[derive(Clone, Debug)]
pub struct Model {
    pub lists: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    max_line: usize,
    /// Lines of the connection so far.
    lines: u64,
}

impl Model {
    pub fn new(max_line: usize) -> Self {
        Self {
            lists: BTreeMap::new(),
            max_line,
            lines: 0,
        }
    }

    /// What the connection is answered where it sends `input` next. It ends where that ends within a
    /// line.
    pub fn converse(&mut self, input: &[u8]) -> Vec<Expected> {
        let mut answers = Vec::new();
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            self.lines += 1;
            let number = self.lines;
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(number, line, &mut answers),
                None => answers.push(Expected::Error(number, "malformed")),
            }
        }
        answers
    }

    fn line(&mut self, number: u64, line: &[u8], answers: &mut Vec<Expected>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.max_line {
            return answers.push(Expected::Error(number, "too-long"));
        }
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        // The rest of the line from this field on, colons and all.
        let from = |field: usize| {
            let skipped: usize = fields[..field].iter().map(|field| field.len() + 1).sum();
            line[skipped..].to_vec()
        };
        let has_key = fields.get(1).is_some_and(|key| !key.is_empty());
        let key = || fields[1].to_vec();
        match (fields[0], fields.len()) {
            (b"Put", 3..) if has_key => self.lists.entry(key()).or_default().push(from(2)),
            (b"Get", 2) if has_key => {
                for value in self.lists.get(fields[1]).into_iter().flatten() {
                    answers.push(Expected::Line([fields[1], value].join(&b':')));
                }
            }
            (b"Delete", 2) if has_key => drop(self.lists.remove(fields[1])),
            (b"Update", 4..) if has_key => {
                let list = self.lists.entry(key()).or_default();
                match list.iter_mut().find(|value| **value == fields[2]) {
                    Some(value) => *value = from(3),
                    None => list.push(from(3)),
                }
            }
            (b"Sync", 1) => answers.push(Expected::Line(b":sync:0:".to_vec())),
            (b"Sync", _) => {
                answers.push(Expected::Line([b":sync:0:", &from(1)[..]].concat()));
            }
            (b"Stats", 1) => answers.push(Expected::Stats),
            (b"", 1) => {}
            (b"Put" | b"Get" | b"Delete" | b"Update" | b"Stats", _) => {
                answers.push(Expected::Error(number, "malformed"));
            }
            _ => answers.push(Expected::Error(number, "unknown")),
        }
    }
}

/// Panics where the output is not what was expected, naming the first line that differs.
pub fn assert_answers(output: &[u8], expected: &[Expected]) {
    let mut lines = output.split_inclusive(|&byte| byte == b'\n');
    for (at, expected) in expected.iter().enumerate() {
        let line = lines.next().unwrap_or_default();
        let fits = match expected {
            Expected::Line(text) => line.strip_suffix(b"\n") == Some(text),
            Expected::Error(number, code) => {
                line.starts_with(format!(":error:{number}:{code}:").as_bytes())
                    && line.ends_with(b"\n")
            }
            Expected::Stats => line.starts_with(b":stats:active=") && line.ends_with(b"\n"),
        };
        assert!(
            fits,
            "reply line {}: {:?} is not {expected:?}",
            at + 1,
            String::from_utf8_lossy(line),
        );
    }
    let more: Vec<_> = lines.map(String::from_utf8_lossy).collect();
    assert!(more.is_empty(), "more replies than expected: {more:?}");
}
