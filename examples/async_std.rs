//! The server inside an async-std program, with a second thread of the pool to help it.
//!
//! ```text
//! cargo run --release --example async_std
//! printf 'Put:a:1\nGet:a\n' | nc -N 127.0.0.1 9999
//! ```

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use async_std::task;
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
    task::block_on(async {
        let listener = keywire::bind(address).await?;
        // Unlike `println`, it does not panic if nothing takes the line.
        let _ = writeln!(
            io::stdout(),
            "keywire listens on {}; Enter ends it",
            listener.local_addr()?
        );
        let server = Server::builder().listen(listener).build();
        let handle = server.handle();
        let serving = task::spawn(server.run());
        let helping = task::spawn(handle.worker());
        // The program's own work goes here. This one waits for a line from the terminal.
        async_std::io::stdin().read_line(&mut String::new()).await?;
        handle.shutdown(Duration::from_secs(1)).await;
        helping.await;
        let _ = writeln!(
            io::stdout(),
            "{} keys at the end",
            serving.await.iter().count()
        );
        Ok(())
    })
}
