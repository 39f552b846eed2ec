//! The server, to be run: keeps values in memory, on a disk or on a cluster, serves TCP or a Unix socket, on smol.
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example server -- --listen unix:/tmp/keywire.sock --threads 2 --stats 1
//! cargo run --release --example server -- --listen localhost:9999 --listen unix:/tmp/keywire.sock
//! cargo run --release --features disk --example server -- --data DIR
//! cargo run --release --features cluster --example server -- --cluster HOST:PORT
//! cargo run --release --features cluster,tls --example server -- --cluster rediss://HOST:PORT --cluster-ca ca.pem
//! cargo run --release --features metrics --example server -- --metrics 127.0.0.1:9998
//! cargo run --release --features tls --example server -- --tls-cert cert.pem --tls-key key.pem
//! ```

// On other systems it can be checked, and there is no program.
#![cfg_attr(not(unix), no_main)]
#![cfg(unix)]

#[path = "common/address.rs"]
mod address;
#[path = "server/cluster.rs"]
mod cluster;
#[path = "server/data.rs"]
mod data;
#[path = "server/descriptors.rs"]
mod descriptors;
#[path = "server/listen.rs"]
mod listen;
#[path = "server/metrics.rs"]
mod metrics;
#[path = "server/options.rs"]
mod options;
#[path = "server/output.rs"]
mod output;
#[path = "server/signals.rs"]
mod signals;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/unix_socket.rs"]
mod unix_socket;

use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Parser as _;
use futures_lite::{StreamExt as _, future};
use keywire::{Builder, Handle, Secret, Server, store::Store};
use listen::Bound;
use options::Options;
use output::{Output, Printer};

fn main() -> ExitCode {
    let options = Options::parse();
    let output = match Output::start() {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: can't start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match data::serve(&options, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.err.line(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    };
    output.finish();
    code
}

fn serve<S: Store>(
    options: &Options,
    output: &Output,
    store: S,
    values: String,
) -> Result<(), Box<dyn Error>> {
    // That of the metrics has connections of its own, one at least.
    let metrics = 2 * usize::from(options.metrics.is_some());
    descriptors::check(options.listen.len() + metrics)?;
    let secret = match &options.secret_file {
        Some(file) => Some(read_secret(file, &output.err)?),
        None => None,
    };
    let tls = tls::config(options)?;
    let guarded = secret.is_some() || options.open;
    let heading = heading(options, &values);

    let mut server = limited(options, secret).store(store).try_build()?;
    let handle = server.handle();
    let mut addresses = Vec::new();
    // Removed when this function ends, whether it has served or not.
    let mut socket_files = Vec::new();
    for address in &options.listen {
        for bound in address.bind(guarded)? {
            match bound {
                Bound::Tcp(listener) => {
                    addresses.push(listener.local_addr()?.to_string());
                    tls::listen(&mut server, listener, tls.as_ref());
                }
                Bound::Unix(listener, file) => {
                    addresses.push(format!("unix:{}", file.path().display()));
                    socket_files.push(file);
                    tls::listen(&mut server, listener, tls.as_ref());
                }
            }
        }
    }
    let signals = signals::take().map_err(|error| format!("can't wait for signals: {error}"))?;
    for number in 1..options.threads {
        let worker = handle.worker();
        thread::Builder::new()
            .spawn(|| smol::block_on(worker))
            .map_err(|error| {
                format!(
                    "can't start thread {} of {}: {error}",
                    number + 1,
                    options.threads
                )
            })?;
    }
    let metrics = metrics::start(options, &handle)?;
    let addresses = addresses.join(" and ");
    output
        .out
        .line(format_args!("keywire listens on {addresses},{heading}"));
    if let Some(metrics) = metrics {
        output.out.line(format_args!("metrics at {metrics}"));
    }

    // Tasks, since these are polled only when they are woken: to poll for signals is a system call.
    let others = smol::LocalExecutor::new();
    let _obey = others.spawn(signals::obey(signals, &handle, &output.out));
    let _report = others.spawn(report(options.stats, &handle, &output.out));
    let _disk = options
        .data
        .is_some()
        .then(|| others.spawn(watch_disk(&handle, &output.err)));
    smol::block_on(others.run(server.run()));
    let stats = handle.stats();
    output.out.line(format_args!(
        "shut down; clients served: {}, reply lines lost: {}",
        stats.dropped, stats.lines_dropped
    ));
    Ok(())
}

fn limited(options: &Options, secret: Option<Secret>) -> Builder {
    let builder = Server::builder()
        .outbox_lines(options.outbox_lines)
        .outbox_bytes(options.outbox_bytes)
        .overflow(options.overflow.into())
        .stall_timeout(options.stall_timeout)
        .max_line(options.max_line)
        .max_reply(options.max_reply)
        .max_watches(options.max_watches)
        .max_watch_prefix(options.max_watch_prefix)
        .max_clients(options.max_clients)
        .max_clients_per_address(options.max_clients_per_address.unwrap_or(usize::MAX))
        .line_timeout(options.line_timeout)
        .idle_timeout(options.idle_timeout.unwrap_or(Duration::MAX))
        .max_line_rate(options.max_line_rate.unwrap_or(u32::MAX))
        .max_store(options.max_store.unwrap_or(u64::MAX))
        .max_values(options.max_values.unwrap_or(usize::MAX));
    match secret {
        Some(secret) => builder.secret(secret),
        None => builder,
    }
}

fn read_secret(file: &Path, err: &Printer) -> Result<Secret, keywire::Error> {
    if fs::metadata(file).is_ok_and(|file| file.mode() & 0o007 != 0) {
        let file = file.display();
        err.line(format_args!(
            "warning: {file}: every user here may read or write it; try chmod 600"
        ));
    }
    Secret::from_file(file)
}

/// What kind of server it is, for the line that says where it listens.
fn heading(options: &Options, values: &str) -> String {
    let tls = match (&options.tls_cert, &options.tls_client_ca) {
        (None, _) => "",
        (Some(_), None) => " TLS,",
        (Some(_), Some(_)) => " TLS for clients with a certificate,",
    };
    let secret = match options.secret_file {
        Some(_) => ", for those who know the secret",
        None => "",
    };
    format!("{tls} {values}{secret}")
}

/// Says if the disk fails.
async fn watch_disk(handle: &Handle, err: &Printer) {
    let mut ticks = smol::Timer::interval(Duration::from_secs(1));
    while ticks.next().await.is_some() {
        if handle.stats().refusing > 0 {
            err.line(format_args!(
                "error: the disk has failed; values are served and writes refused until the next start"
            ));
            return;
        }
    }
}

async fn report(every: Option<Duration>, handle: &Handle, out: &Printer) {
    let Some(every) = every else {
        return future::pending().await;
    };
    let mut ticks = smol::Timer::interval(every);
    let (mut before, mut last) = (handle.stats(), Instant::now());
    while let Some(now) = ticks.next().await {
        let stats = handle.stats();
        let seconds = (now - last).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        out.line(format_args!(
            "active {}  gone {}  commands {:.0}/s  errors {:.0}/s  reply lines {:.0}/s  \
             lost {:.0}/s  events {:.0}/s  missed {:.0}/s",
            stats.active,
            stats.dropped,
            rate(stats.commands, before.commands),
            rate(stats.errors, before.errors),
            rate(stats.lines_queued, before.lines_queued),
            rate(stats.lines_dropped, before.lines_dropped),
            rate(stats.events, before.events),
            rate(stats.missed, before.missed),
        ));
        (before, last) = (stats, now);
    }
}
