//! What a server does now and did in the last minute, on a terminal.
//!
//! ```text
//! cargo run --release --example top
//! cargo run --release --example top -- --connect unix:/tmp/keywire.sock
//! ```
//!
//! It asks for the server's counters once a second, and comes back by itself where the server was
//! away. `q` or Ctrl-C leaves. The counters contain what this program asks.

#[path = "tools/panel.rs"]
mod panel;
#[path = "tools/stream.rs"]
mod stream;

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use async_signal::{Signal, Signals};
use clap::Parser;
use futures_lite::{StreamExt as _, future};
use keywire::{Client, Stats};
use panel::Panel;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use smol::Timer;
use stream::Target;

/// How often the server is asked, and tried again where it is away.
const EVERY: Duration = Duration::from_secs(1);

/// A server that takes longer to answer counts as away.
const PATIENCE: Duration = Duration::from_secs(3);

/// How soon a key or news of the server is seen.
const GLANCE: Duration = Duration::from_millis(50);

/// Shows what a keywire server does: clients, rates, losses, sizes. `q` leaves.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    target: Target,
}

enum News {
    Counters(Instant, Box<Stats>),
    Away(String),
    Quit,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options.target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(target: Target) -> Result<(), Box<dyn Error>> {
    if !io::stdout().is_terminal() {
        return Err("standard output is no terminal; `client stats` prints the counters".into());
    }
    let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup])?;
    let (sender, news) = mpsc::channel();
    let panel = Panel::new(target.address.clone());
    // Also puts the terminal right where this program panics.
    let terminal = ratatui::try_init()?;
    thread::spawn(move || {
        let told = sender.clone();
        smol::block_on(future::or(follow(&target, &sender), quit(signals, &told)));
    });
    let shown = show(terminal, panel, &news);
    let restored = ratatui::try_restore();
    shown.and(restored.map_err(Into::into))
}

async fn quit(mut signals: Signals, news: &Sender<News>) {
    signals.next().await;
    let _ = news.send(News::Quit);
}

/// Asks for the counters again and again. It ends where nobody wants to know.
async fn follow(target: &Target, news: &Sender<News>) {
    loop {
        let Err(error) = ask(target, news).await else {
            return;
        };
        // The address is on the screen already.
        let reason = error
            .rsplit_once(": ")
            .map_or(&*error, |(_, reason)| reason);
        if news.send(News::Away(reason.into())).is_err() {
            return;
        }
        Timer::after(EVERY).await;
    }
}

async fn ask(target: &Target, news: &Sender<News>) -> Result<(), String> {
    let stream = stream::connect(target, Some(PATIENCE)).await?;
    let client = Client::over(stream).with_time_limit(PATIENCE);
    if let Some(secret) = target.secret()? {
        let let_in = client.authenticate(&secret).await;
        let_in.map_err(|error| error.to_string())?;
    }
    let mut ticks = Timer::interval_at(Instant::now(), EVERY);
    loop {
        ticks.next().await;
        let stats = client.stats().await.map_err(|error| error.to_string())?;
        let counters = News::Counters(Instant::now(), Box::new(stats));
        if news.send(counters).is_err() {
            return Ok(());
        }
    }
}

fn show(
    mut terminal: DefaultTerminal,
    mut panel: Panel,
    news: &Receiver<News>,
) -> Result<(), Box<dyn Error>> {
    let mut changed = true;
    loop {
        loop {
            match news.try_recv() {
                Ok(News::Counters(at, stats)) => panel.update(at, *stats),
                Ok(News::Away(reason)) => panel.lose(reason),
                Ok(News::Quit) => return Ok(()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err("it stopped asking".into()),
            }
            changed = true;
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| panel.draw(frame))?;
        }
        if event::poll(GLANCE)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                        return Ok(());
                    }
                    _ => {}
                },
                Event::Resize(..) => changed = true,
                _ => {}
            }
        }
    }
}
