//! The server inside a tokio program: the same future, spawned like any other.
//!
//! ```text
//! cargo run --release --example tokio
//! printf 'Put:a:1\nGet:a\n' | nc -N 127.0.0.1 9999
//! ```
//!
//! The server's sockets belong to async-io, which wakes tokio's threads from a thread of its own:
//! once for all the sockets that have news, and on a busy server not at all.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use keywire::Server;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    runtime.block_on(async {
        let listener = keywire::bind(address).await?;
        // Unlike `println`, it does not panic if nothing takes the line.
        let _ = writeln!(
            io::stdout(),
            "keywire listens on {}; Enter ends it",
            listener.local_addr()?
        );
        let server = Server::builder().listen(listener).build();
        let handle = server.handle();
        let serving = tokio::spawn(server.run());
        // The program's own work goes here. This one waits for a line from the terminal.
        tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new())).await??;
        handle.shutdown(Duration::from_secs(1)).await;
        let store = serving.await?;
        let _ = writeln!(io::stdout(), "{} keys at the end", store.iter().count());
        Ok(())
    })
}
