//! A stage between two channels: squares the integers on standard input, a line each, in order.
//!
//! ```text
//! seq 1 10 | cargo run --release --example squarer
//! ```

use std::io::{self, Write as _};

use futures_lite::{AsyncBufReadExt as _, StreamExt as _, future, io::BufReader};
use keywire::Squarer;

fn main() -> io::Result<()> {
    let (numbers, input) = async_channel::bounded(16);
    let (squarer, worker, output) = Squarer::new(input);

    let feed = async move {
        let mut lines = BufReader::new(smol::Unblock::new(io::stdin())).lines();
        while let Some(line) = lines.next().await {
            let line = match line {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    say(&format!("a line is left out: {error}"));
                    continue;
                }
                line => line?,
            };
            match line.trim().parse::<i64>() {
                // It fails only where the stage was closed, because nobody receives.
                Ok(number) => {
                    if numbers.send(number).await.is_err() {
                        break;
                    }
                }
                Err(error) => say(&format!("{line:?} is left out: {error}")),
            }
        }
        Ok(()) // `numbers` goes here; that closes the input, and the stage ends behind the last
    };
    let print = async {
        while let Ok(square) = output.recv().await {
            if let Err(error) = writeln!(io::stdout(), "{square}") {
                squarer.close().await;
                if error.kind() == io::ErrorKind::BrokenPipe {
                    return Ok(()); // such as into `head`
                }
                return Err(error);
            }
        }
        Ok(())
    };
    // Any executor will do; here it is the smallest.
    let (result, ((), printed)) = future::block_on(future::zip(feed, future::zip(worker, print)));
    result.and(printed)
}

/// If nobody can read it, that is no reason to stop.
fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}
