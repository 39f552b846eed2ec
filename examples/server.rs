//! The server, to be run: keeps values in memory, on a disk or on a cluster, serves TCP or a Unix socket, on smol.
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example server -- --listen unix:/tmp/keywire.sock --threads 2 --stats 1
//! cargo run --release --example server -- --listen localhost:9999 --listen unix:/tmp/keywire.sock
//! cargo run --release --features disk --example server -- --data DIR
//! cargo run --release --features cluster --example server -- --cluster HOST:PORT
//! cargo run --release --features cluster,tls --example server -- --cluster rediss://HOST:PORT --cluster-ca ca.pem
//! cargo run --release --features metrics --example server -- --metrics 127.0.0.1:9990
//! cargo run --release --features tls --example server -- --tls-cert cert.pem --tls-key key.pem
//! KEYWIRE_LISTEN=:9999 KEYWIRE_SECRET_FILE=secret cargo run --release --example server -- --log-format json
//! ```
//!
//! Standard output has the line that says where it listens. The log is on standard error.

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
#[path = "server/log.rs"]
mod log;
#[path = "server/metrics.rs"]
mod metrics;
#[path = "server/options.rs"]
mod options;
#[path = "server/output.rs"]
mod output;
#[path = "common/program.rs"]
mod program;
#[path = "server/service.rs"]
mod service;
#[path = "server/signals.rs"]
mod signals;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/unix_socket.rs"]
mod unix_socket;

use std::{
    cell::RefCell,
    error::Error,
    fs,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use futures_lite::{StreamExt as _, future};
use keywire::{Builder, Handle, Secret, Server, store::Store};
use listen::Bound;
use listenfd::ListenFd;
use log::{Format, TARGET};
use options::{DEFAULT_ADDRESS, Options};
use output::{Output, Printer};
use service::Manager;

/// What the server has from those who started it, and what it tells them.
#[derive(Clone, Copy)]
struct Context<'a> {
    started: Instant,
    /// Sockets that listen already.
    sockets: &'a RefCell<ListenFd>,
    output: &'a Output,
    manager: &'a Manager,
}

fn main() -> ExitCode {
    let started = Instant::now();
    // It changes the environment, so there may be no other thread yet.
    let sockets = RefCell::new(ListenFd::from_env());
    let options = options::parse();
    if let Some(shell) = options.completions {
        return program::complete::<Options>(shell);
    }
    let notice = match options.log_format {
        Format::Text => output::text_notice,
        Format::Json => output::json_notice,
    };
    let threads = Output::start(notice).and_then(|output| Ok((output, Manager::start()?)));
    let (output, manager) = match threads {
        Ok(threads) => threads,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: can't start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let errors = output.err.lines();
    let context = Context {
        started,
        sockets: &sockets,
        output: &output,
        manager: &manager,
    };
    let served = log::start(options.log.clone(), options.log_format, errors)
        .and_then(|()| data::serve(&options, context));
    let code = match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::fatal(&*error, options.log_format, errors);
            ExitCode::FAILURE
        }
    };
    manager.finish();
    output.finish();
    code
}

fn serve<S: Store>(
    options: &Options,
    context: Context,
    store: S,
    values: String,
) -> Result<(), Box<dyn Error>> {
    let mut sockets = context.sockets.borrow_mut();
    let mut listen = options.listen.clone();
    // Sockets that were passed replace the default, and come beside what is given.
    if listen.is_empty() && sockets.len() == 0 {
        listen.push(DEFAULT_ADDRESS.parse()?);
    }
    // That of the metrics has connections of its own, one at least.
    let metrics = 2 * usize::from(options.metrics.is_some());
    descriptors::check(listen.len() + metrics)?;
    let secret = match &options.secret_file {
        Some(file) => Some(read_secret(file)?),
        None => None,
    };
    let tls = tls::config(options)?;
    let guarded = secret.is_some() || options.open;

    let mut server = limited(options, secret).store(store).try_build()?;
    let handle = server.handle();
    let mut addresses = Vec::new();
    // Removed when this function ends, whether it has served or not.
    let mut socket_files = Vec::new();
    let mut all = listen::passed(&mut sockets, guarded)?;
    for address in &listen {
        all.extend(address.bind(guarded)?);
    }
    for bound in all {
        addresses.push(bound.address()?);
        match bound {
            Bound::Tcp(listener) => tls::listen(&mut server, listener, tls.as_ref()),
            Bound::Unix(listener, file) => {
                socket_files.extend(file);
                tls::listen(&mut server, listener, tls.as_ref());
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
    let heading = heading(options, &values);
    let out = &context.output.out;
    out.line(format_args!("keywire listens on {addresses},{heading}"));
    if let Some(metrics) = &metrics {
        out.line(format_args!("metrics at {metrics}"));
    }
    tracing::info!(
        target: TARGET,
        version = %program::version(),
        listen = %addresses,
        store = %values,
        threads = options.threads,
        tls = options.tls_cert.is_some(),
        secret = options.secret_file.is_some(),
        metrics,
        limits = (!options.limits.is_empty()).then_some(tracing::field::display(&options.limits)),
        "started"
    );
    context.manager.ready();

    // Tasks, since these are polled only when they are woken: to poll for signals is a system call.
    let others = smol::LocalExecutor::new();
    let _signals = others.spawn(signals::shut_down_on(signals, &handle, context.manager));
    let _report = others.spawn(report(options.stats, &handle, out));
    let _status = others.spawn(context.manager.report(&handle));
    smol::block_on(others.run(server.run()));
    let stats = handle.stats();
    tracing::info!(
        target: TARGET,
        clients = stats.dropped,
        commands = stats.commands,
        errors = stats.errors,
        lines_lost = stats.lines_dropped,
        events_missed = stats.missed,
        uptime_seconds = context.started.elapsed().as_secs(),
        "shut down"
    );
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

fn read_secret(file: &Path) -> Result<Secret, keywire::Error> {
    if fs::metadata(file).is_ok_and(|file| file.mode() & 0o007 != 0) {
        let file = file.display();
        tracing::warn!(
            target: TARGET,
            %file,
            "every user here may read or write the secret; try chmod 600"
        );
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
    format!("{tls} values in {values}{secret}")
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
