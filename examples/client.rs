//! A client for a shell: one command, a watch, or lines as they are typed.
//!
//! ```text
//! cargo run --release --example client -- put user alice
//! cargo run --release --example client -- get user
//! cargo run --release --example client -- watch --prefix us
//! cargo run --release --example client -- keys us
//! cargo run --release --example client -- dump > saved
//! cargo run --release --example client -- load < saved
//! cargo run --release --example client
//! printf 'Put:a:1\nGet:a\n' | cargo run --release --example client -- --connect 127.0.0.1:9999
//! cargo run --release --features tls --example client -- --tls-ca cert.pem --connect localhost:9999
//! ```
//!
//! With no command it passes lines from standard input to the server, and replies to standard output
//! as they come. (With `--secret-file`, the server counts its line as the first.) It ends when its
//! input has ended and every reply is in; so that it knows, it sends a `Sync` of its own behind the
//! last line, and keeps the reply to itself.
//!
//! The arguments of a command are taken as they are, also if they look like options: `put k -h`
//! stores `-h`. A `--` between the name and exactly the command's arguments is left out. Options
//! stand before the command, or behind its arguments. The prefix of `keys` and `dump` may be left
//! out, so a prefix that begins with `-` needs a `--` before it. Bytes go into a pipe as they are; on
//! a terminal, what is not printable is shown escaped.
//!
//! `keys` and `dump` print as the server sends, and hold only a bounded part. They are not the state
//! of one moment: others are served meanwhile. If whoever reads the output pauses for longer than the
//! server's `--stall-timeout`, the server may drop the rest, and the exit code is 2.
//!
//! On a terminal, lines are edited, with a history that is kept in a file (`KEYWIRE_HISTORY` names
//! another; empty, none). Tab completes commands, and keys that the server has.
//!
//! When the connection is lost, `watch` waits for the server to come back, and so does a person's line
//! mode; standard error says so. A script that wants to know has `--no-reconnect`.
//!
//! The exit code is 0 if all is done, 1 if `get` or `keys` found nothing, and 2 if something went
//! wrong: bad usage, no server, a server that refused something, dropped a reply or went away, or
//! replies that are missing.

// On other systems it can be checked, and there is no program.
#![cfg_attr(not(unix), no_main)]
#![cfg(unix)]

#[path = "common/address.rs"]
mod address;
#[path = "tools/arguments.rs"]
mod arguments;
#[path = "tools/converse.rs"]
mod converse;
#[path = "tools/leave.rs"]
mod leave;
#[path = "tools/load.rs"]
mod load;
#[path = "common/program.rs"]
mod program;
#[path = "tools/reconnect.rs"]
mod reconnect;
#[path = "tools/replies.rs"]
mod replies;
#[path = "common/say.rs"]
mod say;
#[path = "tools/stream.rs"]
mod stream;
#[path = "tools/terminal.rs"]
mod terminal;
#[path = "tools/watch.rs"]
mod watch;

use std::{
    ffi::OsString,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use converse::Conversation;
use futures_lite::{StreamExt as _, future};
use keywire::{Client, Error, Secret, Stats, Walk};
use reconnect::explain;
use say::say;
use stream::{Dialer, Target};
use terminal::Completion;

/// Talks to a keywire server: sends one command, or, without a command, the lines of standard input.
#[derive(Parser)]
#[command(
    after_help = "Options stand before the command, or behind its arguments. The arguments are taken \
    as they are: `put k -h` stores `-h`. Only a PREFIX that begins with - needs a -- before it. \
    `client help COMMAND` explains a command.\n\nLines typed on a terminal are kept for the next \
    session in KEYWIRE_HISTORY, by default ~/.local/state/keywire/history; if it is empty, nowhere. Tab \
    completes commands and keys.\n\nThe exit code is 0 if all is done, 1 if `get` or \
    `keys` found nothing, and 2 if something went wrong: for lines of standard input, also if one was \
    refused, or replies were dropped or are missing."
)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// How long to wait for a connection, and for the answer [default: no limit]
    ///
    /// `watch` waits for 5 and 10 seconds by default, and asks a silent server for a sign of life then.
    ///
    /// Without a command: how long to wait for a connection, for the server to take more of the
    /// input, and, once the input has ended, for more replies.
    #[arg(long, value_name = "SECONDS", value_parser = program::seconds, global = true)]
    timeout: Option<Duration>,
    /// End when the connection is lost
    ///
    /// By default `watch`, and lines that a person types, go on as soon as the server is back.
    #[arg(long, global = true)]
    no_reconnect: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Print the values of a key, one a line
    Get { key: OsString },
    /// Append a value to a key
    Put { key: OsString, value: OsString },
    /// Remove a key and all its values
    Delete { key: OsString },
    /// Replace the first value equal to OLD by NEW, or append NEW if there is none
    Update {
        key: OsString,
        old: OsString,
        new: OsString,
    },
    /// Make VALUE the key's only one
    Set { key: OsString, value: OsString },
    /// Remove the first value equal to VALUE, if there is one
    Remove { key: OsString, value: OsString },
    /// Print every key that begins with PREFIX, and the number of its values: KEY:N
    ///
    /// In no particular order. A PREFIX that begins with - needs a -- before it: keys -- -x
    Keys {
        /// All keys if it is left out
        prefix: Option<OsString>,
    },
    /// Print all values of every key that begins with PREFIX: KEY:VALUE
    ///
    /// A key's values stand together, oldest first; the keys are in no particular order. With Put:
    /// before each line, the output is commands that append all values again: sed 's/^/Put:/' FILE |
    /// client. A PREFIX that begins with - needs a -- before it: dump -- -x
    Dump {
        /// All keys if it is left out
        prefix: Option<OsString>,
    },
    /// Store lines KEY:VALUE from standard input, as dump prints them
    ///
    /// Each key gets just the values that are in the lines: the first by a Set, the others by Puts. So a
    /// load can be repeated. The lines of a key stand together.
    Load,
    /// Print every change of a key as it comes
    ///
    /// put:KEY:VALUE, update:KEY:OLD:NEW, set:KEY:VALUE, remove:KEY:VALUE, delete:KEY; and :missed:N if
    /// changes were missed: 0 is an unknown number, as when the connection was lost in between
    Watch {
        /// Watch all keys that begin with KEY; with '', all there are
        #[arg(long)]
        prefix: bool,
        key: OsString,
    },
    /// Print the server's counters
    Stats,
    /// Print a script by which a shell completes commands and options
    Completions { shell: Shell },
}

fn main() -> ExitCode {
    let options: Options = arguments::parse();
    if let Some(Command::Completions { shell }) = options.command {
        return program::complete::<Options>(shell);
    }
    match smol::block_on(run(options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Tells whether there was what was asked for.
async fn run(options: Options) -> Result<bool, String> {
    let address = options.target.address.text.as_str();
    let secret = options.target.secret()?;
    let dialer = Dialer::new(&options.target)?;
    if let Some(Command::Watch { prefix, key }) = &options.command {
        let client = watch::client(&options, dialer, secret);
        return watch::watch(client, *prefix, key.as_bytes(), address).await;
    }
    let stream = dialer.dial_within(options.timeout).await?;
    let Some(command) = options.command else {
        let line = |secret: Secret| [b"Auth:", secret.expose(), b"\n"].concat();
        let conversation = Conversation {
            address,
            dialer: Some(dialer.clone()).filter(|_| !options.no_reconnect),
            first: secret.clone().map(line).unwrap_or_default(),
            limit: options.timeout,
            completion: Completion { dialer, secret },
        };
        return converse::converse(conversation, stream)
            .await
            .map(|()| true);
    };
    let mut client = Client::from_stream(stream);
    if let Some(limit) = options.timeout {
        client = client.with_timeout(limit);
    }
    let failed = |error| explain(error, address);
    if let Some(secret) = secret {
        client.authenticate(&secret).await.map_err(failed)?;
    }
    let done = match &command {
        Command::Get { key } => {
            let values = client.get(key.as_bytes()).await.map_err(failed)?;
            print(&values)?;
            return Ok(!values.is_empty());
        }
        Command::Stats => {
            let stats = client.stats().await.map_err(failed)?;
            return print(&table(&stats)).map(|()| true);
        }
        Command::Keys { prefix } => {
            let keys = client.keys(prefix.as_deref().unwrap_or_default().as_bytes());
            let line = |(key, count): (Vec<u8>, u64)| {
                let count = count.to_string();
                vec![[&key, count.as_bytes()].join(&b':')]
            };
            return print_walk(keys, line, failed).await;
        }
        Command::Dump { prefix } => {
            let entries = client.get_prefix(prefix.as_deref().unwrap_or_default().as_bytes());
            let lines = |(key, values): (Vec<u8>, Vec<Vec<u8>>)| {
                let values = values.iter().map(|value| [&key, &value[..]].join(&b':'));
                values.collect()
            };
            // A server that holds nothing is dumped, too.
            return print_walk(entries, lines, failed).await.map(|_| true);
        }
        // Neither uses this connection, so neither comes here.
        Command::Watch { .. } | Command::Completions { .. } => return Ok(true),
        Command::Load => return load::load(&client, failed).await,
        Command::Set { key, value } => client.set(key.as_bytes(), value.as_bytes()).await,
        Command::Remove { key, value } => client.remove(key.as_bytes(), value.as_bytes()).await,
        Command::Put { key, value } => client.put(key.as_bytes(), value.as_bytes()).await,
        Command::Delete { key } => client.delete(key.as_bytes()).await,
        Command::Update { key, old, new } => {
            let (key, old, new) = (key.as_bytes(), old.as_bytes(), new.as_bytes());
            client.update(key, old, new).await
        }
    };
    done.map(|()| true).map_err(failed)
}

fn print(lines: &[impl AsRef<[u8]>]) -> Result<(), String> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = lines
        .iter()
        .try_for_each(|line| out.write_all(&say::line(line.as_ref())))
        .and_then(|()| out.flush());
    printed.or_else(on_output)
}

/// Prints what comes of a walk, as it comes. Tells whether there was anything.
async fn print_walk<T>(
    mut walk: Walk<T>,
    to_lines: impl Fn(T) -> Vec<Vec<u8>>,
    failed: impl Fn(Error) -> String,
) -> Result<bool, String> {
    let stdout = io::stdout().lock();
    let seen = stdout.is_terminal();
    let mut out = io::BufWriter::with_capacity(64 * 1024, stdout);
    let mut found = false;
    let end = loop {
        let next = match future::poll_once(walk.next()).await {
            Some(next) => next,
            // Nothing more has come, so what has is shown.
            None => match out.flush() {
                Ok(()) => walk.next().await,
                Err(error) => return on_output(error).map(|()| true),
            },
        };
        let Some(Ok(item)) = next else { break next };
        found = true;
        for mut line in to_lines(item) {
            if seen {
                line = say::shown(&line).into_bytes();
            }
            line.push(b'\n');
            if let Err(error) = out.write_all(&line) {
                return on_output(error).map(|()| true);
            }
        }
    };
    out.flush().or_else(on_output)?;
    end.map_or(Ok(found), |end| end.map(|_| found).map_err(failed))
}

/// Where the reader of our output has had enough, as `head` has, that is no error.
fn on_output(error: io::Error) -> Result<(), String> {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(format!("standard output: {error}")),
    }
}

fn table(stats: &Stats) -> Vec<String> {
    let counters = stats.counters();
    counters
        .map(|(name, number)| format!("{name:<13} {number}"))
        .collect()
}
