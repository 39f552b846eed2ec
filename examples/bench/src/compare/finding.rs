//! What a row has found: a figure over all rounds, and the goal it is held against.

use std::fmt;

use crate::report::grouped;

/// A figure of all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
}

impl Spread {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let median = match figures.len() % 2 {
            0 => (at(middle.wrapping_sub(1)) + at(middle)) / 2.0,
            _ => at(middle),
        };
        Spread {
            median,
            min: at(0),
            max: at(figures.len().wrapping_sub(1)),
            rounds: figures.len(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub(crate) fn figure(self) -> f64 {
        let (Goal::AtLeast(goal) | Goal::AtMost(goal)) = self;
        goal
    }

    pub(crate) fn reached(self, figure: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => figure >= goal,
            Goal::AtMost(goal) => figure <= goal,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Of ours to Redis's, or of one of ours to another; better if it is greater.
    OfRedis,
    /// The same of kevy.
    OfKevy,
    OfOurs,
    /// Of what ours takes to what Redis takes, or to what ours takes otherwise; better if it is less.
    CostOfRedis,
    CostOfOurs,
    PerSecond,
    KiB,
    Milliseconds,
    Microseconds,
    Count,
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Unit::PerSecond | Unit::Count => grouped(figure as u64),
            _ => format!("{figure:.2}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::OfRedis | Unit::OfKevy | Unit::OfOurs => "",
            Unit::CostOfRedis | Unit::CostOfOurs | Unit::Count => "",
            Unit::PerSecond => "/s",
            Unit::KiB => "KiB",
            Unit::Milliseconds => "ms",
            Unit::Microseconds => "µs",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Finding {
    /// The row, and which part of it.
    pub(crate) name: String,
    /// What was done, in few words for the chart.
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) spread: Spread,
    pub(crate) goal: Goal,
    /// What the contestants did, in words.
    pub(crate) figures: Vec<String>,
}

impl Finding {
    pub(crate) fn reached(&self) -> bool {
        self.goal.reached(self.spread.median)
    }

    pub(crate) fn heading() -> String {
        let [name, median, min, max] = ["row", "median", "min", "max"];
        format!("{name:<18}{median:>9}{min:>9}{max:>9}         goal")
    }

    /// One line of the table.
    pub(crate) fn line(&self) -> String {
        let Finding {
            name, unit, spread, ..
        } = self;
        let [median, min, max] = [spread.median, spread.min, spread.max].map(|n| unit.show(n));
        let sign = match self.goal {
            Goal::AtLeast(_) => ">=",
            Goal::AtMost(_) => "<=",
        };
        let goal = unit.show(self.goal.figure());
        let reached = if self.reached() { "reached" } else { "MISSED" };
        let unit = unit.name();
        format!("{name:<18}{median:>9}{min:>9}{max:>9} {unit:<4} {sign} {goal:<7} {reached}")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line())?;
        writeln!(f, "    {}, {} rounds", self.what, self.spread.rounds)?;
        self.figures
            .iter()
            .try_for_each(|text| writeln!(f, "    {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |median, min, max, rounds| Spread {
            median,
            min,
            max,
            rounds,
        };
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of([4.0, 1.0]), spread(2.5, 1.0, 4.0, 2));
        assert_eq!(Spread::of([4.0]), spread(4.0, 4.0, 4.0, 1));
        assert!(Spread::of([]).median.is_nan());
    }
}
