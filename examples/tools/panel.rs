//! What `top` shows, and how it fits on a terminal of any size.

use std::{collections::VecDeque, time::Instant};

use keywire::{Stats, StoreKind};
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

const LOSSES: [(&str, Counter); 7] = [
    ("lines dropped", |stats| stats.lines_dropped),
    ("events missed", |stats| stats.missed),
    ("errors", |stats| stats.errors),
    ("writes refused", |stats| {
        stats.full_store + stats.full_values
    }),
    ("unconfirmed", |stats| stats.unconfirmed),
    ("clients refused", |stats| stats.refused),
    ("accept errors", |stats| stats.accept_errors),
];

const COMMANDS: [(&str, Counter); 12] = [
    ("get", |stats| stats.gets),
    ("put", |stats| stats.puts),
    ("update", |stats| stats.updates),
    ("delete", |stats| stats.deletes),
    ("set", |stats| stats.sets),
    ("remove", |stats| stats.removes),
    ("walk", |stats| stats.walks),
    ("sync", |stats| stats.syncs),
    ("watch", |stats| stats.watches),
    ("unwatch", |stats| stats.unwatches),
    ("stats", |stats| stats.stats),
    ("auth", |stats| stats.auths),
];

/// Rows of the table of the store, with its title, at the most.
const STORE_ROWS: usize = 9;

/// A commit that takes longer is slow, in microseconds.
const SLOW_COMMIT: u64 = 100_000;

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
            2 => LOSSES.len() + STORE_ROWS + 2,
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
        let hint = Line::from("q quits ".dim()).right_aligned();
        frame.render_widget(hint, head);
        let words = match (&self.away, &self.now) {
            (Some(reason), _) => Line::from(format!(" AWAY, trying again: {reason}"))
                .white()
                .on_red(),
            (None, Some((_, stats))) if stats.refusing > 0 => {
                Line::from(" THE DISK HAS FAILED: writes are refused until the next start")
                    .white()
                    .on_red()
            }
            (None, Some((_, stats))) => Line::from(format!(
                " clients {}, gone {}, watching {}, up {}",
                grouped(stats.active),
                grouped(stats.dropped),
                grouped(stats.watching),
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
        let losses = self.counters("losses", &LOSSES, Style::new().red().bold());
        let commands = self.counters("commands", &COMMANDS, Style::new().green());
        let store = self.store();
        let gap = || vec![Line::default()];
        let columns: Vec<Vec<Line<'_>>> = match area.width / TABLE {
            0 | 1 => vec![[losses, gap(), store, gap(), commands].concat()],
            2 => vec![commands, [losses, gap(), store].concat()],
            _ => vec![commands, losses, store],
        };
        let areas = Layout::horizontal(vec![Constraint::Length(TABLE); columns.len()]).spacing(2);
        for (lines, area) in columns.into_iter().zip(areas.split(area).iter()) {
            frame.render_widget(Paragraph::new(lines), *area);
        }
    }

    /// Counters with their rates, in this style if they grow.
    fn counters(&self, title: &str, counters: &[(&str, Counter)], grows: Style) -> Vec<Line<'_>> {
        let mut lines = vec![Line::from(format!(" {title:<15}{:>8}{:>13}", "/s", "total")).dim()];
        for (name, counter) in counters {
            let total = self.now.as_ref().map(|(_, stats)| counter(stats));
            let rate = self.rate(*counter);
            let shown = |number: Option<u64>| number.map_or("-".into(), short);
            let text = format!(
                " {name:<15}{:>8}{:>13}",
                shown(rate),
                total.map_or("-".into(), grouped)
            );
            let line = Line::from(text);
            lines.push(match rate {
                Some(1..) => line.style(grows),
                _ => line,
            });
        }
        lines
    }

    fn rate(&self, counter: Counter) -> Option<u64> {
        let ((_, now), (before, seconds)) = (self.now.as_ref()?, self.before.as_ref()?);
        Some(rate(counter, now, before, *seconds))
    }

    /// What the store holds, and how its disk or its cluster does.
    fn store(&self) -> Vec<Line<'_>> {
        let stats = self.now.as_ref().map(|(_, stats)| stats);
        let kind = stats.map_or(StoreKind::Other, Stats::store_kind);
        let name = stats.map_or("-", |_| kind.name());
        let mut rows = vec![Line::from(format!(" {:<15}{name:>21}", "store")).dim()];
        let mut row = |name: &str, value: Option<String>, style: Style| {
            let value = value.unwrap_or_else(|| "-".into());
            rows.push(Line::from(format!(" {name:<15}{value:>21}")).style(style));
        };
        let plain = Style::new();
        let number = |counter: Counter| stats.map(|stats| grouped(counter(stats)));
        let grows = |counter: Counter, style: Style| match self.rate(counter) {
            Some(1..) => style,
            _ => plain,
        };
        if kind != StoreKind::Cluster {
            // No server knows what a cluster holds.
            row("keys", number(|stats| stats.keys), plain);
            row("values", number(|stats| stats.values), plain);
            row("bytes", number(|stats| stats.bytes), plain);
        }
        match kind {
            StoreKind::Disk => {
                let slow = Style::new().yellow();
                let is_slow = |took: Counter| match stats.map(took) {
                    Some(SLOW_COMMIT..) => slow,
                    _ => plain,
                };
                let time = |took: Counter| stats.map(|stats| milliseconds(took(stats)));
                let last: Counter = |stats| stats.commit_last_us;
                let longest: Counter = |stats| stats.commit_longest_us;
                row(
                    "commits/s",
                    self.rate(|stats| stats.commits).map(short),
                    plain,
                );
                row(
                    "writes/s",
                    self.rate(|stats| stats.commit_writes).map(short),
                    plain,
                );
                row("last commit", time(last), is_slow(last));
                row("longest commit", time(longest), is_slow(longest));
                row("bytes on disk", number(|stats| stats.disk_bytes), plain);
            }
            StoreKind::Cluster => {
                let alarming = Style::new().red().bold();
                let nodes = match stats.map(|stats| stats.nodes_up) {
                    Some(0) => alarming,
                    _ => plain,
                };
                row("nodes up", number(|stats| stats.nodes_up), nodes);
                row("under way", number(|stats| stats.under_way), plain);
                let retries: Counter = |stats| stats.retries;
                let failures: Counter = |stats| stats.failures;
                row(
                    "retries",
                    number(retries),
                    grows(retries, Style::new().yellow()),
                );
                row("failures", number(failures), grows(failures, alarming));
            }
            _ => {}
        }
        rows
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

/// Of microseconds.
fn milliseconds(time: u64) -> String {
    format!("{:.1} ms", time as f64 / 1e3)
}
