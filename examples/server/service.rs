//! What a service manager such as systemd is told, if it wants to know: when the server serves and when it
//! stops, and that it has not come to a halt.

use std::{
    env,
    io::{self, Write},
    time::{Duration, Instant},
};

use futures_lite::StreamExt as _;
use keywire::Handle;
use sd_notify::NotifyState;

use crate::output::Printer;

/// How often the manager is told how many clients there are, if it does not watch more closely.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// How much longer a start may take, each time that it says how far it is, in microseconds.
#[cfg(feature = "disk")]
const EXTENSION: u32 = 30_000_000;

/// The service manager. Without one, nothing is told.
pub(crate) struct Manager(Option<Printer>);

impl Manager {
    pub(crate) fn start() -> io::Result<Self> {
        let listens = env::var_os("NOTIFY_SOCKET").is_some();
        let printer = || Printer::start(Socket, |_| String::new());
        Ok(Self(listens.then(printer).transpose()?))
    }

    #[cfg(feature = "disk")]
    pub(crate) fn loading(&self, percent: u64) {
        let status = format!("loading: {percent} %");
        self.tell(&[
            NotifyState::Status(&status),
            NotifyState::ExtendTimeoutUsec(EXTENSION),
        ]);
    }

    pub(crate) fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("shutting down")]);
    }

    /// Runs on the thread that serves. So the manager notices if that one hangs.
    pub(crate) async fn report(&self, handle: &Handle) {
        if self.0.is_none() {
            return;
        }
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        // The manager expects it twice as often as it needs it.
        let interval = watchdog.map_or(STATUS_INTERVAL, |limit| limit / 2);
        let interval = interval.clamp(Duration::from_millis(1), STATUS_INTERVAL);
        let mut ticks = smol::Timer::interval_at(Instant::now(), interval);
        let mut last = None;
        while ticks.next().await.is_some() {
            let active = handle.stats().active;
            let status = format!("clients: {active}");
            let changed = last.replace(active) != Some(active);
            let alive = watchdog.map(|_| NotifyState::Watchdog);
            let status = changed.then_some(NotifyState::Status(&status));
            let states: Vec<_> = alive.into_iter().chain(status).collect();
            if !states.is_empty() {
                self.tell(&states);
            }
        }
    }

    fn tell(&self, states: &[NotifyState]) {
        if let Some(printer) = &self.0 {
            let lines: Vec<_> = states.iter().map(ToString::to_string).collect();
            printer.line(lines.join("\n"));
        }
    }

    pub(crate) fn finish(self) {
        if let Some(printer) = self.0 {
            printer.finish();
        }
    }
}

/// The manager's socket. It may be full, so a printer's thread writes to it: each line is a datagram.
struct Socket;

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        match text.trim_end() {
            "" => {}
            text => sd_notify::notify(&[NotifyState::Custom(text)])?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
