//! The executors, and the number of threads that poll a server there. It wants `async-std` and `tokio`.

use std::thread::{self, JoinHandle};

use futures_lite::future;
use keywire::{Server, store::Store};

use crate::common::TestServer;

/// Who polls the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    Smol,
    AsyncStd,
    Tokio,
    BlockOn,
}

/// Makes a test of a function for each executor, polled by one thread and by several.
macro_rules! on_every_executor {
    ($($(#[$attribute:meta])* fn $name:ident($executor:ident: Executor) $body:block)*) => {$(
        $(#[$attribute])*
        fn $name($executor: crate::executor::Executor) $body

        mod $name {
            use crate::executor::{Executor, Runtime};
            #[test] fn smol() { super::$name(Executor(Runtime::Smol, 1)) }
            #[test] fn smol_on_three_threads() { super::$name(Executor(Runtime::Smol, 3)) }
            #[test] fn async_std() { super::$name(Executor(Runtime::AsyncStd, 1)) }
            #[test] fn tokio() { super::$name(Executor(Runtime::Tokio, 1)) }
            #[test] fn tokio_on_three_threads() { super::$name(Executor(Runtime::Tokio, 3)) }
            #[test] fn block_on() { super::$name(Executor(Runtime::BlockOn, 1)) }
            #[test] fn block_on_on_three_threads() { super::$name(Executor(Runtime::BlockOn, 3)) }
        }
    )*};
}

/// An executor and the number of threads that poll the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Executor(pub(crate) Runtime, pub(crate) usize);

impl Executor {
    /// Where a test runs that is about something else.
    pub(crate) const PLAIN: Executor = Executor(Runtime::Smol, 1);

    /// Runs a client here.
    pub(crate) fn block_on<T>(self, client: impl Future<Output = T>) -> T {
        match self.0 {
            Runtime::Smol => smol::block_on(client),
            Runtime::AsyncStd => async_std::task::block_on(client),
            Runtime::Tokio => tokio::runtime::Runtime::new().unwrap().block_on(client),
            Runtime::BlockOn => future::block_on(client),
        }
    }

    /// A server that is polled here.
    pub(crate) fn start<S: Store>(self, server: Server<S>) -> TestServer<S> {
        TestServer::polled_by(server, |server| self.run(server))
    }

    /// Runs the server on threads of its own.
    fn run<S: Store>(self, server: Server<S>) -> JoinHandle<S> {
        let Executor(runtime, threads) = self;
        let handle = server.handle();
        thread::spawn(move || match runtime {
            Runtime::Tokio => {
                let tokio = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(threads)
                    .build()
                    .unwrap();
                let helpers: Vec<_> = (1..threads).map(|_| tokio.spawn(handle.worker())).collect();
                let serving = tokio.spawn(server.run());
                tokio.block_on(async {
                    for helper in helpers {
                        helper.await.unwrap();
                    }
                    serving.await.unwrap()
                })
            }
            Runtime::Smol => on_threads(threads, server, smol::block_on, smol::block_on),
            Runtime::BlockOn => on_threads(threads, server, future::block_on, future::block_on),
            Runtime::AsyncStd => on_threads(
                1,
                server,
                async_std::task::block_on,
                async_std::task::block_on,
            ),
        })
    }
}

type Serving<S> = std::pin::Pin<Box<dyn Future<Output = S> + Send>>;

fn on_threads<S: Store>(
    threads: usize,
    server: Server<S>,
    block_on: fn(Serving<S>) -> S,
    help: fn(Serving<()>),
) -> S {
    let helpers: Vec<_> = (1..threads)
        .map(|_| {
            let worker = server.handle().worker();
            thread::spawn(move || help(Box::pin(worker)))
        })
        .collect();
    let store = block_on(Box::pin(server.run()));
    for helper in helpers {
        helper.join().unwrap();
    }
    store
}
