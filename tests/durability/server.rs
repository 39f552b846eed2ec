//! A server with its values in a directory, for tests: `durable-server DIR [NAME=NUMBER ...]`.
//!
//! It says where it listens, and ends when its input does.

use std::{
    env,
    error::Error,
    io::{self, Read as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use futures_lite::future;
use keywire::{
    Server,
    store::{Disk, disk::Sync},
};

fn main() -> ExitCode {
    match smol::block_on(serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let directory = arguments.next().ok_or("which directory?")?;
    let mut disk = Disk::builder();
    let mut server = Server::builder();
    for argument in arguments {
        let (name, number) = argument.split_once('=').ok_or("NAME=NUMBER")?;
        let number: u64 = number.parse()?;
        match name {
            "min_log" => disk = disk.min_log(number),
            "sync_ms" => disk = disk.sync(Sync::Within(Duration::from_millis(number))),
            "max_values" => server = server.max_values(number.try_into()?),
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    let store = disk.open(&directory).await?;
    let listener = keywire::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = server.listen(listener).store(store).build();
    let handle = server.handle();
    println!("listening on {address}");
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        future::block_on(handle.shutdown(Duration::from_secs(10)));
    });
    server.run().await;
    Ok(())
}
