//! What a server does now and did in the last minute, on a terminal.
//!
//! ```text
//! cargo run --release --example top
//! cargo run --release --example top -- --connect unix:/tmp/keywire.sock
//! ```
//!
//! It asks for the server's counters once a second, and comes back by itself where the server was
//! away. `q` or Ctrl-C leaves. The counters contain what this program asks.

// On other systems it can be checked, and there is no program.
#![cfg_attr(not(unix), no_main)]
#![cfg(unix)]

#[path = "common/address.rs"]
mod address;
#[path = "tools/arguments.rs"]
mod arguments;
#[path = "tools/leave.rs"]
mod leave;
#[path = "tools/panel.rs"]
mod panel;
#[path = "common/program.rs"]
mod program;
#[path = "common/say.rs"]
mod say;
#[path = "tools/stream.rs"]
mod stream;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _},
    mem::ManuallyDrop,
    panic,
    process::ExitCode,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use async_signal::Signal;
use clap::Parser;
use clap_complete::Shell;
use futures_lite::{StreamExt as _, future};
use keywire::{Client, Stats};
use panel::Panel;
use ratatui::{
    DefaultTerminal,
    crossterm::{
        cursor,
        event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
        execute,
        terminal::disable_raw_mode,
    },
};
use say::{reason, say, shown};
use smol::Timer;
use stream::{Dialer, Target};

/// How often the server is asked, and tried again where it is away.
const EVERY: Duration = Duration::from_secs(1);

/// A server that takes longer to answer counts as away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Shows what a keywire server does: clients, rates, losses, sizes. `q` leaves.
#[derive(Parser)]
#[command(
    after_help = "The exit code is 0 if it was left, and 2 if something went wrong: wrong options, or a \
    standard output that is no terminal."
)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// Print a script by which a shell completes these options
    #[arg(long, value_name = "SHELL")]
    completions: Option<Shell>,
}

enum News {
    Counters(Instant, Box<Stats>),
    Away(String),
    Input(Event),
    Quit,
}

fn main() -> ExitCode {
    let options: Options = arguments::parse();
    if let Some(shell) = options.completions {
        return program::complete::<Options>(shell);
    }
    match run(options.target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

fn run(target: Target) -> Result<(), Box<dyn Error>> {
    if !io::stdout().is_terminal() {
        return Err("standard output is no terminal; `client stats` prints the counters".into());
    }
    if env::var_os("TERM").is_some_and(|terminal| terminal == "dumb") {
        return Err("this terminal can't be drawn on; `client stats` prints the counters".into());
    }
    let signals = [Signal::Term, Signal::Int, Signal::Hup];
    let signalled = leave::signalled(signals, 0, || drop(disable_raw_mode()))?;
    let (sender, news) = mpsc::channel();
    let panel = Panel::new(target.address.to_string());
    // Its `drop` would print an error with `eprintln!`, which panics if the terminal is gone.
    let terminal = ratatui::try_init().map(ManuallyDrop::new);
    // Replaces the hook of `ratatui`, which uses `eprintln!` too.
    panic::set_hook(Box::new(|panic| {
        let _ = restore();
        panic.to_string().lines().for_each(say);
    }));
    let mut terminal = terminal.inspect_err(|_| drop(restore()))?;
    // The reader of events never comes back from a terminal that is gone, so nobody waits for it.
    let (input, end) = (sender.clone(), sender.clone());
    thread::spawn(move || read(&input));
    thread::spawn(move || {
        leave::await_broken_output();
        end.send(News::Quit)
    });
    thread::spawn(move || {
        let quitting = sender.clone();
        let quit = async {
            signalled.await;
            let _ = quitting.send(News::Quit);
        };
        smol::block_on(future::or(follow(&target, &sender), quit));
    });
    let shown = show(&mut terminal, panel, &news);
    let restored = restore();
    // A terminal that is gone ends this program as a signal does, whatever noticed it first.
    if leave::is_output_broken() {
        return Ok(());
    }
    shown.and(restored.map_err(Into::into))
}

/// Gives the terminal back, with its cursor.
fn restore() -> io::Result<()> {
    ratatui::try_restore()?;
    execute!(io::stdout(), cursor::Show)
}

fn read(news: &Sender<News>) {
    while let Ok(event) = event::read() {
        if news.send(News::Input(event)).is_err() {
            return;
        }
    }
    let _ = news.send(News::Quit);
}

/// Asks for the counters again and again. It ends where nobody wants to know.
async fn follow(target: &Target, news: &Sender<News>) {
    loop {
        let Err(error) = ask(target, news).await else {
            return;
        };
        // The address is on the screen already.
        let words = error.rsplit_once(": ").map_or(&*error, |(_, words)| words);
        if news.send(News::Away(words.into())).is_err() {
            return;
        }
        Timer::after(EVERY).await;
    }
}

async fn ask(target: &Target, news: &Sender<News>) -> Result<(), String> {
    let dialer = Dialer::new(target)?;
    let stream = dialer.dial_within(Some(PATIENCE)).await?;
    let client = Client::from_stream(stream).with_timeout(PATIENCE);
    if let Some(secret) = target.secret()? {
        let authenticated = client.authenticate(&secret).await;
        authenticated.map_err(|error| reason(&error))?;
    }
    let mut ticks = Timer::interval_at(Instant::now(), EVERY);
    loop {
        ticks.next().await;
        let stats = client.stats().await.map_err(|error| reason(&error))?;
        let counters = News::Counters(Instant::now(), Box::new(stats));
        if news.send(counters).is_err() {
            return Ok(());
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut panel: Panel,
    news: &Receiver<News>,
) -> Result<(), Box<dyn Error>> {
    loop {
        terminal.draw(|frame| panel.draw(frame))?;
        // What has come together is shown together.
        let mut next = Some(news.recv()?);
        while let Some(new) = next {
            match new {
                News::Counters(at, stats) => panel.update(at, *stats),
                News::Away(reason) => panel.lose(shown(reason.as_bytes())),
                News::Input(event) if !leaves(&event) => {}
                News::Input(_) | News::Quit => return Ok(()),
            }
            next = news.try_recv().ok();
        }
    }
}

/// Whether this key ends the program.
fn leaves(event: &Event) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    let asked = match key.code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    };
    asked && key.kind == KeyEventKind::Press
}
