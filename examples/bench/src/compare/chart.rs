//! Draws the ratios: a bar for the median, a whisker from the least to the greatest, and a mark
//! where the goal is.

use std::{error::Error, path::Path};

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    finding::{Finding, Unit},
    kevy::Kevy,
};

const WIDTH: i32 = 1000;
/// The column of the labels, and that of the figures right of the bars.
const LABELS: i32 = 430;
const FIGURES: i32 = 90;
const HEAD: i32 = 100;
const FOOT: i32 = 60;
/// The height of a bar, and from one to the next.
const BAR: i32 = 16;
const STEP: i32 = 30;

const INK: RGBColor = RGBColor(32, 38, 46);
const PALE: RGBColor = RGBColor(110, 118, 129);
const GRID: RGBColor = RGBColor(225, 228, 232);
const REACHED: RGBColor = RGBColor(70, 150, 140);
const MISSED: RGBColor = RGBColor(222, 150, 90);
const GOAL: RGBColor = RGBColor(170, 30, 60);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Writes the chart of all that are ratios. Other figures have no scale in common with them.
pub(crate) fn draw(file: &Path, redis: &str, findings: &[Finding]) -> Result<(), Box<dyn Error>> {
    let of = |unit| findings.iter().filter(move |finding| finding.unit == unit);
    let against = format!("keywire / {redis}");
    let kevy = format!("keywire / {}", Kevy::NAME);
    let cost = format!("keywire / {redis}, less is better");
    let groups = [
        (&*against, of(Unit::OfRedis).collect::<Vec<_>>()),
        (&*kevy, of(Unit::OfKevy).collect()),
        ("keywire / keywire", of(Unit::OfOurs).collect()),
        (&*cost, of(Unit::CostOfRedis).collect()),
        (
            "keywire / keywire, less is better",
            of(Unit::CostOfOurs).collect(),
        ),
    ];
    let lines: usize = groups
        .iter()
        .filter(|(_, group)| !group.is_empty())
        .map(|(_, group)| 1 + group.len())
        .sum();
    if lines == 0 {
        return Ok(());
    }
    let ratios = groups.iter().flat_map(|(_, group)| group);
    let scale = Scale::up_to(ratios.map(|finding| reach(finding)).fold(1.0, f64::max));

    let bottom = HEAD + lines as i32 * STEP;
    let svg = SVGBackend::new(file, (WIDTH as u32, (bottom + FOOT) as u32));
    let area = svg.into_drawing_area();
    area.fill(&WHITE)?;
    heading(&area, redis, findings)?;
    grid(&area, &scale, bottom)?;
    let mut middle = HEAD + STEP / 2;
    text(
        &area,
        "median",
        (WIDTH - 24, middle),
        13,
        &PALE,
        HPos::Right,
    )?;
    for (name, group) in groups.iter().filter(|(_, group)| !group.is_empty()) {
        text(&area, name, (24, middle), 15, &INK, HPos::Left)?;
        for finding in group {
            middle += STEP;
            bar(&area, &scale, finding, middle)?;
        }
        middle += STEP;
    }
    area.present()?;
    Ok(())
}

/// How much of the scale a finding needs. One round that went wild would make all else small: its
/// whisker may end in an arrow.
fn reach(finding: &Finding) -> f64 {
    const WILD: f64 = 1.5;
    let rest = finding.spread.median.max(finding.goal.figure());
    rest.max(finding.spread.max.min(rest * WILD))
}

/// From ratios to pixels.
struct Scale {
    end: f64,
    tick: f64,
}

impl Scale {
    fn up_to(most: f64) -> Scale {
        // A side that did nothing at all makes a ratio that is no number.
        let most = if most.is_finite() { most } else { 1.0 };
        let steps = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0];
        let tick = steps.into_iter().find(|tick| most / tick <= 8.0);
        let tick = tick.unwrap_or(most / 8.0);
        Scale {
            end: (most / tick).ceil() * tick,
            tick,
        }
    }

    fn x(&self, ratio: f64) -> i32 {
        let width = f64::from(WIDTH - FIGURES - LABELS);
        LABELS + (ratio.clamp(0.0, self.end) / self.end * width) as i32
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = (self.end / self.tick).round() as u32;
        (0..=count).map(|number| f64::from(number) * self.tick)
    }
}

fn heading(area: &Area<'_>, redis: &str, findings: &[Finding]) -> Result<(), Box<dyn Error>> {
    let rounds = findings.iter().map(|finding| finding.spread.rounds).max();
    let title = format!("keywire, {redis} and {} at the same work", Kevy::NAME);
    text(area, &title, (24, 28), 20, &INK, HPos::Left)?;
    let subtitle = format!(
        "Ratios of operations a second (of p99 latency: Redis / keywire), more is better if nothing \
         else is said; up to {} rounds of turns",
        rounds.unwrap_or(0)
    );
    text(area, &subtitle, (24, 54), 13, &PALE, HPos::Left)?;

    let y = 80;
    let legend = |x: i32, color: &RGBColor, name: &str| {
        area.draw(&Rectangle::new(
            [(x, y - 6), (x + 20, y + 6)],
            color.filled(),
        ))?;
        text(area, name, (x + 28, y), 13, &PALE, HPos::Left)
    };
    legend(24, &REACHED, "median, goal reached")?;
    legend(204, &MISSED, "median, goal missed")?;
    whisker(area, (384, 404), y, false)?;
    text(area, "least to greatest", (412, y), 13, &PALE, HPos::Left)?;
    goal(area, 554, y)?;
    text(area, "goal", (564, y), 13, &PALE, HPos::Left)
}

fn grid(area: &Area<'_>, scale: &Scale, bottom: i32) -> Result<(), Box<dyn Error>> {
    for ratio in scale.ticks() {
        let x = scale.x(ratio);
        let color = if ratio == 1.0 { PALE } else { GRID };
        area.draw(&PathElement::new([(x, HEAD), (x, bottom + 6)], color))?;
        let label = (ratio * 100.0).round() / 100.0;
        text(
            area,
            &label.to_string(),
            (x, bottom + 18),
            13,
            &PALE,
            HPos::Center,
        )?;
    }
    let middle = (scale.x(0.0) + scale.x(scale.end)) / 2;
    text(
        area,
        "ratio",
        (middle, bottom + 40),
        13,
        &PALE,
        HPos::Center,
    )
}

fn bar(
    area: &Area<'_>,
    scale: &Scale,
    finding: &Finding,
    middle: i32,
) -> Result<(), Box<dyn Error>> {
    let spread = finding.spread;
    let color = if finding.reached() { REACHED } else { MISSED };
    let label = (LABELS - 14, middle);
    text(area, &finding.what, label, 13, &INK, HPos::Right)?;
    let corners = [
        (scale.x(0.0), middle - BAR / 2),
        (scale.x(spread.median), middle + BAR / 2),
    ];
    area.draw(&Rectangle::new(corners, color.filled()))?;
    let ends = (scale.x(spread.min), scale.x(spread.max));
    whisker(area, ends, middle, spread.max > scale.end)?;
    goal(area, scale.x(finding.goal.figure()), middle)?;
    let figure = format!("{:.2}", spread.median);
    text(area, &figure, (WIDTH - 24, middle), 13, &INK, HPos::Right)
}

/// An arrow where it goes on to the right.
fn whisker(
    area: &Area<'_>,
    (from, to): (i32, i32),
    y: i32,
    goes_on: bool,
) -> Result<(), Box<dyn Error>> {
    for line in [
        vec![(from, y), (to, y)],
        vec![(from, y - 4), (from, y + 4)],
        match goes_on {
            true => vec![(to - 6, y - 4), (to, y), (to - 6, y + 4)],
            false => vec![(to, y - 4), (to, y + 4)],
        },
    ] {
        area.draw(&PathElement::new(line, INK))?;
    }
    Ok(())
}

/// Higher than the bar, so that it is seen upon it too.
fn goal(area: &Area<'_>, x: i32, y: i32) -> Result<(), Box<dyn Error>> {
    let line = [(x, y - BAR / 2 - 4), (x, y + BAR / 2 + 4)];
    area.draw(&PathElement::new(line, GOAL.stroke_width(3)))?;
    Ok(())
}

fn text(
    area: &Area<'_>,
    words: &str,
    at: (i32, i32),
    size: u32,
    color: &RGBColor,
    side: HPos,
) -> Result<(), Box<dyn Error>> {
    let style = ("sans-serif", size).into_text_style(area).color(color);
    let style = style.pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(words, at, style))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::*;
    use crate::compare::finding::{Goal, Spread};

    #[test]
    fn only_ratios_are_drawn() -> Result<(), Box<dyn Error>> {
        let finding = |what: &str, unit| Finding {
            name: String::new(),
            what: what.into(),
            unit,
            spread: Spread::of([1.2, 1.5, 1.25]),
            goal: Goal::AtLeast(1.0),
            figures: Vec::new(),
        };
        let findings = [
            finding("a ratio & its name", Unit::OfRedis),
            finding("a ratio to another", Unit::OfKevy),
            finding("a size", Unit::KiB),
        ];
        let file = std::env::temp_dir().join(format!("keywire-chart-{}.svg", process::id()));
        draw(&file, "Redis", &findings)?;
        let svg = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        assert!(
            svg.contains("a ratio &amp; its name") && svg.contains("1.25"),
            "{svg}"
        );
        assert!(
            svg.contains("a ratio to another")
                && svg.contains(&format!("keywire / {}", Kevy::NAME)),
            "{svg}"
        );
        assert!(!svg.contains("a size"), "{svg}");
        Ok(())
    }

    #[test]
    fn the_scale_has_room_and_few_ticks() {
        for most in [0.3, 1.0, 1.6, 3.2, 9.9, 250.0, f64::INFINITY, f64::NAN] {
            let scale = Scale::up_to(most);
            assert!(scale.ticks().count() <= 9, "{most}");
            assert!(scale.x(most) <= WIDTH - FIGURES, "{most}");
        }
    }
}
