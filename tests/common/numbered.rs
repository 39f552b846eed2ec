//! Changes with numbers, and what a watcher has heard of them.

/// What a watcher heard of changes numbered from 0. They come in order; what is left out is as many
/// as a `:missed:N` says, and that stands where they are left out.
#[derive(Debug, Default)]
pub struct Heard {
    /// The number of the next change.
    pub next: usize,
    pub events: usize,
    pub missed: usize,
}

impl Heard {
    /// Takes a line where it is an event; says whether it was.
    ///
    /// The number is the first one behind the key.
    pub fn take(&mut self, line: &str) -> bool {
        if let Some(number) = line.strip_prefix(":missed:") {
            let number: usize = number.parse().unwrap();
            assert!(number > 0, "it missed nothing");
            self.missed += number;
            self.next += number;
            return true;
        }
        let fields: Vec<_> = line.splitn(4, ':').collect();
        let ["", "put" | "update" | "delete", _, rest] = fields[..] else {
            return false;
        };
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        assert_eq!(digits.parse(), Ok(self.next), "after {self:?}: {line}");
        self.next += 1;
        self.events += 1;
        true
    }

    /// Takes the events among these lines, and gives the other lines.
    pub fn take_all<'a>(&mut self, lines: &'a str) -> Vec<&'a str> {
        lines.lines().filter(|line| !self.take(line)).collect()
    }
}
