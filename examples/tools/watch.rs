//! The client's watch.

use std::io::{self, IsTerminal as _};

use async_signal::Signal;
use futures_lite::{AsyncWriteExt as _, StreamExt as _, future, io::BufWriter};
use keywire::{ClientBuilder, Error, Event, Secret, Watcher};
use smol::Unblock;

use crate::{
    Options, leave, on_output,
    reconnect::{self, explain},
    say::{self, say},
    stream::Dialer,
};

/// A client that comes back, and says so.
pub(crate) fn client(options: &Options, dialer: Dialer, secret: Option<Secret>) -> ClientBuilder {
    let announce = reconnect::announce(&options.target.address.text, say);
    let builder = reconnect::builder(dialer, secret)
        .reconnect(!options.no_reconnect)
        .on_connection(announce);
    match options.timeout {
        Some(limit) => builder.connect_timeout(limit).answer_timeout(Some(limit)),
        None => builder,
    }
}

/// Prints events until a signal, the end of the last connection, or the end of whoever reads them.
pub(crate) async fn watch(
    client: ClientBuilder,
    prefix: bool,
    key: &[u8],
    address: &str,
) -> Result<bool, String> {
    let failed = |error| explain(error, address);
    let client = client.connect().await.map_err(failed)?;
    let watcher = match prefix {
        true => client.watch_prefix(key).await,
        false => client.watch(key).await,
    };
    print_events(watcher.map_err(failed)?, failed).await?;
    Ok(true)
}

async fn print_events(
    mut watcher: Watcher,
    failed: impl Fn(Error) -> String,
) -> Result<(), String> {
    let signals = [Signal::Int, Signal::Term, Signal::Hup];
    let signalled = leave::signalled(signals, 0, || {})?;
    if io::stderr().is_terminal() {
        say("watching; Ctrl-C ends");
    }
    // A thread of its own writes, so that a reader who is slow can't hold up the signals.
    let mut out = BufWriter::new(Unblock::new(io::stdout()));
    let printing = async {
        loop {
            let next = match future::poll_once(watcher.next()).await {
                Some(next) => next,
                // Nothing more has come, so what has is shown.
                None => match out.flush().await {
                    Ok(()) => watcher.next().await,
                    Err(error) => return on_output(error),
                },
            };
            let written = match next {
                Some(Ok(event)) => out.write_all(&to_line(event)).await,
                end => {
                    out.flush().await.or_else(on_output)?;
                    return end.map_or(Ok(()), |end| end.map(|_| ()).map_err(failed));
                }
            };
            if let Err(error) = written {
                return on_output(error);
            }
        }
    };
    let interrupted = async {
        signalled.await;
        Ok(())
    };
    let unread = async {
        smol::unblock(leave::await_broken_output).await;
        Ok(())
    };
    future::or(printing, future::or(interrupted, unread)).await
}

/// What goes to standard output; a person is told more on standard error.
fn to_line(event: Event) -> Vec<u8> {
    let fields: &[&[u8]] = match &event {
        Event::Put { key, value } => &[b"put", key, value],
        Event::Update { key, old, new } => &[b"update", key, old, new],
        Event::Set { key, value } => &[b"set", key, value],
        Event::Remove { key, value } => &[b"remove", key, value],
        Event::Delete { key } => &[b"delete", key],
        // As the server says it: a key is not empty, so this can't be taken for one.
        Event::Missed(changes) => {
            match changes {
                0 => say("missed an unknown number of changes"),
                _ => say(format_args!(
                    "missed {changes} changes, which came faster than they were read"
                )),
            }
            return say::line(format!(":missed:{changes}").as_bytes());
        }
        // A later version of the library may know more.
        other => {
            say(format_args!("left out: {other:?}"));
            return Vec::new();
        }
    };
    say::line(&fields.join(&b':'))
}
