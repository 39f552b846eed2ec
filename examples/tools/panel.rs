//! What `top` shows, and how it fits on a terminal of any size.

use std::{collections::VecDeque, time::Instant};

use keywire::Stats;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize as _},
    text::{Line, Span},
    widgets::{Paragraph, RenderDirection, Sparkline},
};

/// Seconds that the charts reach back.
const MINUTE: usize = 60;

/// Columns of a chart's words, and of one of the tables.
const WORDS: u16 = 22;
const TABLE: u16 = 37;

/// Reads one counter.
type Counter = fn(&Stats) -> u64;

const CHARTS: [(&str, Counter); 3] = [
    ("commands/s", |stats| stats.commands),
    ("reply lines/s", |stats| stats.lines_queued),
    ("events/s", |stats| stats.events),
];

const LOSSES: [(&str, Counter); 5] = [
    ("lines dropped", |stats| stats.lines_dropped),
    ("events missed", |stats| stats.missed),
    ("errors", |stats| stats.errors),
    ("refused", |stats| stats.refused),
    ("accept errors", |stats| stats.accept_errors),
];

const COMMANDS: [(&str, Counter); 8] = [
    ("get", |stats| stats.gets),
    ("put", |stats| stats.puts),
    ("update", |stats| stats.updates),
    ("delete", |stats| stats.deletes),
    ("sync", |stats| stats.syncs),
    ("watch", |stats| stats.watches),
    ("unwatch", |stats| stats.unwatches),
    ("stats", |stats| stats.stats),
];

const SIZES: [(&str, Counter); 5] = [
    ("keys", |stats| stats.keys),
    ("values", |stats| stats.values),
    ("bytes", |stats| stats.bytes),
    ("watching", |stats| stats.watching),
    ("clients gone", |stats| stats.dropped),
];

pub(crate) struct Panel {
    address: String,
    /// Why the server is away, where it is.
    away: Option<String>,
    now: Option<(Instant, Stats)>,
    /// The counters before, and the seconds between.
    before: Option<(Stats, f64)>,
    /// The rates of each chart, the newest first.
    history: [VecDeque<u64>; CHARTS.len()],
}

impl Panel {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            away: None,
            now: None,
            before: None,
            history: Default::default(),
        }
    }

    pub(crate) fn update(&mut self, at: Instant, stats: Stats) {
        let before = self.now.replace((at, stats));
        // Counters that went back are those of a new server.
        self.before = before
            .filter(|(_, before)| before.commands < stats.commands && before.uptime <= stats.uptime)
            .map(|(then, before)| (before, (at - then).as_secs_f64().max(0.001)));
        self.away = None;
        for (history, (_, counter)) in self.history.iter_mut().zip(CHARTS) {
            let rate = match &self.before {
                Some((before, seconds)) => rate(counter, &stats, before, *seconds),
                None => 0,
            };
            history.push_front(rate);
            history.truncate(MINUTE);
        }
    }

    pub(crate) fn lose(&mut self, reason: String) {
        self.away = Some(reason);
        self.before = None;
        for history in &mut self.history {
            history.push_front(0);
            history.truncate(MINUTE);
        }
    }

    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        // The charts grow into what the tables leave, and have a row each at least.
        let tables = match area.width / TABLE {
            0 | 1 => LOSSES.len() + 1,
            2 => LOSSES.len() + SIZES.len() + 3,
            _ => COMMANDS.len() + 1,
        };
        let spare = area.height.saturating_sub(3 + tables as u16);
        let high = (spare / CHARTS.len() as u16).clamp(1, 8);
        let [head, state, charts, _, body] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(high * CHARTS.len() as u16),
            Constraint::Length(1),
            Constraint::Fill(1),
        ])
        .areas(area);
        self.draw_head(frame, head, state);
        let areas = Layout::vertical([Constraint::Length(high); CHARTS.len()]).split(charts);
        for (at, area) in areas.iter().enumerate() {
            self.draw_chart(frame, at, *area);
        }
        self.draw_tables(frame, body);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, head: Rect, state: Rect) {
        let name = Line::from(vec![" keywire ".bold(), Span::raw(self.address.as_str())]);
        frame.render_widget(name, head);
        frame.render_widget(Line::from("q quits ").right_aligned().dim(), head);
        let words = match (&self.away, &self.now) {
            (Some(reason), _) => Line::from(format!(" AWAY, trying again: {reason}"))
                .white()
                .on_red(),
            (None, Some((_, stats))) => Line::from(format!(
                " clients {}, up {}",
                grouped(stats.active),
                time(stats.uptime.as_secs())
            )),
            (None, None) => Line::from(" connecting ...").dim(),
        };
        frame.render_widget(Paragraph::new(words), state);
    }

    fn draw_chart(&self, frame: &mut Frame<'_>, at: usize, area: Rect) {
        let [words, chart] =
            Layout::horizontal([Constraint::Length(WORDS), Constraint::Fill(1)]).areas(area);
        let history = &self.history[at];
        let now = match self.before {
            Some(_) => short(history.front().copied().unwrap_or(0)),
            None => "-".into(),
        };
        let peak = history.iter().copied().max().unwrap_or(0);
        let mut lines = vec![Line::from(format!(" {:<14}{now:>6}", CHARTS[at].0)).bold()];
        if area.height > 1 {
            lines.push(Line::from(format!(" {:<14}{:>6}", "  peak", short(peak))).dim());
        }
        frame.render_widget(Paragraph::new(lines), words);
        // On a wide terminal a second has several columns.
        let columns = (usize::from(chart.width) / MINUTE).max(1);
        let bars = history
            .iter()
            .flat_map(|rate| std::iter::repeat_n(*rate, columns));
        let style = if self.away.is_some() {
            Style::new().dim()
        } else {
            Style::new().cyan()
        };
        let sparkline = Sparkline::default()
            .data(bars.collect::<Vec<_>>())
            .max(peak.max(1))
            .direction(RenderDirection::RightToLeft)
            .style(style);
        frame.render_widget(sparkline, chart);
    }

    fn draw_tables(&self, frame: &mut Frame<'_>, area: Rect) {
        let losses = self.counters("losses", &LOSSES, true);
        let commands = self.counters("commands", &COMMANDS, false);
        let sizes = self.sizes();
        let gap = || vec![Line::default()];
        let columns: Vec<Vec<Line<'_>>> = match area.width / TABLE {
            0 | 1 => vec![[losses, gap(), commands, gap(), sizes].concat()],
            2 => vec![commands, [losses, gap(), sizes].concat()],
            _ => vec![commands, losses, sizes],
        };
        let areas = Layout::horizontal(vec![Constraint::Length(TABLE); columns.len()]).spacing(2);
        for (lines, area) in columns.into_iter().zip(areas.split(area).iter()) {
            frame.render_widget(Paragraph::new(lines), *area);
        }
    }

    /// Counters with their rates. Those that should stay 0 are red where they grow.
    fn counters(&self, title: &str, counters: &[(&str, Counter)], alarming: bool) -> Vec<Line<'_>> {
        let mut lines = vec![Line::from(format!(" {title:<15}{:>8}{:>13}", "/s", "total")).dim()];
        for (name, counter) in counters {
            let total = self.now.as_ref().map(|(_, stats)| counter(stats));
            let rate = match (&self.now, &self.before) {
                (Some((_, now)), Some((before, seconds))) => {
                    Some(rate(*counter, now, before, *seconds))
                }
                _ => None,
            };
            let shown = |number: Option<u64>| number.map_or("-".into(), short);
            let text = format!(
                " {name:<15}{:>8}{:>13}",
                shown(rate),
                total.map_or("-".into(), grouped)
            );
            let line = Line::from(text);
            lines.push(match rate {
                Some(1..) if alarming => line.red().bold(),
                _ => line,
            });
        }
        lines
    }

    fn sizes(&self) -> Vec<Line<'_>> {
        let mut lines = vec![Line::from(format!(" {:<15}{:>21}", "store", "now")).dim()];
        for (name, counter) in SIZES {
            let total = self.now.as_ref().map(|(_, stats)| counter(stats));
            let total = total.map_or("-".into(), grouped);
            lines.push(Line::from(format!(" {name:<15}{total:>21}")));
        }
        lines
    }
}

fn rate(counter: Counter, now: &Stats, before: &Stats, seconds: f64) -> u64 {
    (counter(now).saturating_sub(counter(before)) as f64 / seconds).round() as u64
}

/// At most six characters: 987, 12.3k, 1.23M.
fn short(number: u64) -> String {
    let (scaled, unit) = match number {
        0..10_000 => return number.to_string(),
        10_000..1_000_000 => (number as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (number as f64 / 1e6, "M"),
        1_000_000_000..1_000_000_000_000 => (number as f64 / 1e9, "G"),
        _ => (number as f64 / 1e12, "T"),
    };
    let digits = if scaled < 10.0 { 2 } else { 1 };
    format!("{scaled:.digits$}{unit}")
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match days {
        0 => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days} d {hours}:{minutes:02}:{seconds:02}"),
    }
}
