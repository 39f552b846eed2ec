//! How the tools leave: on a signal, and when whoever saw their output is gone.

use std::{io, process, thread, time::Duration};

use async_signal::{Signal, Signals};
use futures_lite::StreamExt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the program has to end by itself. A terminal that was stopped may take nothing, and
/// hold up whoever writes to it.
const LEAVE: Duration = Duration::from_secs(1);

/// The first of these signals. If the program has not ended soon after it, this ends it, with this
/// code and after this last thing.
pub(crate) fn signalled<const N: usize>(
    signals: [Signal; N],
    code: i32,
    last: impl FnOnce() + Send + 'static,
) -> Result<impl Future<Output = ()> + Send, String> {
    let signals = Signals::new(signals);
    let mut signals = signals.map_err(|error| format!("signals: {error}"))?;
    let (sender, receiver) = smol::channel::bounded::<()>(1);
    thread::spawn(move || {
        smol::block_on(signals.next());
        drop(sender);
        thread::sleep(LEAVE);
        last();
        process::exit(code);
    });
    Ok(async move {
        let _ = receiver.recv().await;
    })
}

/// Returns when nobody can see standard output any more: its reader or its terminal is gone. If it
/// is neither a pipe nor a terminal, that may be never.
#[allow(dead_code, reason = "`chat` writes to it itself")]
pub(crate) fn await_broken_output() {
    while poll_output(None).is_err() {}
}

/// Whether that is so now.
#[allow(dead_code, reason = "`client` only waits for it")]
pub(crate) fn is_output_broken() -> bool {
    poll_output(Some(&Timespec::default())).is_ok_and(|events| events > 0)
}

fn poll_output(limit: Option<&Timespec>) -> rustix::io::Result<usize> {
    let output = io::stdout();
    // Nothing is asked for, so only an error or a hang-up counts.
    poll(&mut [PollFd::new(&output, PollFlags::empty())], limit)
}
