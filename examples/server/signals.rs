//! The signals that stop the server.

use std::{fs, io, time::Duration};

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt as _, future};
use keywire::Handle;

use crate::{log::TARGET, service::Manager};

/// How long clients may take for their last replies when the server shuts down.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn take() -> io::Result<Signals> {
    let mut signals = vec![Signal::Int, Signal::Term];
    if !ignores_hang_up() {
        signals.push(Signal::Hup);
    }
    Signals::new(signals)
}

/// Whether the program was started by `nohup`, which has it ignore the end of its terminal.
fn ignores_hang_up() -> bool {
    const SIGHUP: u32 = 1;
    let ignored = || {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    // Only Linux tells.
    ignored().is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}

/// The first signal lets clients have their replies; the second does not wait for them.
pub(crate) async fn shut_down_on(mut signals: Signals, handle: &Handle, manager: &Manager) {
    let signal = name(signals.next().await);
    tracing::info!(target: TARGET, signal, "signal: the server shuts down; once more to do it at once");
    manager.stopping();
    let again = async {
        // When a terminal goes away, its shell and the system may both send SIGHUP.
        let means_it = |signal: &io::Result<Signal>| !matches!(signal, Ok(Signal::Hup));
        let signal = name(signals.find(means_it).await);
        tracing::info!(target: TARGET, signal, "signal: the server ends at once");
        handle.shutdown(Duration::ZERO).await;
    };
    future::or(again, handle.shutdown(GRACE)).await;
    future::pending().await
}

fn name(signal: Option<io::Result<Signal>>) -> Option<&'static str> {
    match signal?.ok()? {
        Signal::Int => Some("SIGINT"),
        Signal::Term => Some("SIGTERM"),
        Signal::Hup => Some("SIGHUP"),
        _ => None,
    }
}
