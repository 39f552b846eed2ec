//! Metrics and health over HTTP. What is built without them says how to build with them.

use keywire::Handle;

use crate::options::Options;

/// Listens and answers, if that is wanted, on a thread that lives as long as the program. Gives the address.
#[cfg(feature = "metrics")]
pub(crate) fn start(options: &Options, handle: &Handle) -> Result<Option<String>, String> {
    let Some(address) = &options.metrics else {
        return Ok(None);
    };
    let listeners = http::bind(address, options.open)?;
    let mut bound = Vec::new();
    for listener in &listeners {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        bound.push(format!("http://{address}/metrics"));
    }
    let (handle, reserve) = (handle.clone(), http::Reserve::filled());
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || http::serve(&listeners, &handle, &reserve))
        .map_err(|error| format!("can't start a thread for metrics: {error}"))?;
    Ok(Some(bound.join(" and ")))
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn start(options: &Options, _: &Handle) -> Result<Option<String>, String> {
    match options.metrics {
        Some(_) => Err("this server was built without metrics; \
                        cargo build --release --features metrics --example server builds it with"
            .into()),
        None => Ok(None),
    }
}

#[cfg(feature = "metrics")]
mod http {
    use std::{
        cell::RefCell,
        collections::VecDeque,
        io,
        net::Shutdown,
        os::fd::{AsFd as _, OwnedFd},
        sync::Arc,
        time::Duration,
    };

    use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, future, stream};
    use keywire::{Handle, metrics::CONTENT_TYPE};
    use rustix::io::dup2;
    use smol::{
        Async, LocalExecutor, Task, Timer,
        net::{TcpListener, TcpStream},
    };

    use crate::{
        address::{Address, Kind},
        listen,
    };

    /// From the accept to the end of a connection.
    const TIME: Duration = Duration::from_secs(5);

    /// Bytes of a request without its body. Prometheus and browsers send less than 1 KiB.
    const MAX_HEAD: usize = 8 * 1024;

    const MAX_HEADERS: usize = 64;

    /// Bytes of a body that are read, and ignored, before the connection is closed.
    const MAX_BODY: u64 = 64 * 1024;

    /// Connections at a time. The oldest goes for one more, so that idle ones can't shut others out.
    const MAX_CONNECTIONS: usize = 64;

    /// The time until the next accept after one has failed, such as for want of a descriptor.
    const RETRY: Duration = Duration::from_millis(100);

    const TEXT: &str = "text/plain; charset=utf-8";

    const BEYOND: &str = "others than this machine could read the metrics, for which there is no secret; \
                          --open lets them";

    /// There is no secret, so `open` has to allow others than this machine.
    pub(super) fn bind(address: &Address, open: bool) -> Result<Vec<TcpListener>, String> {
        let text = &address.text;
        let listeners = match &address.kind {
            Kind::Tcp(host, port) => listen::bind(text, host.as_deref(), *port, open, BEYOND),
            Kind::Unix(_) => Err(format!("{text}: expected HOST:PORT")),
        };
        listeners.map_err(|error| format!("--metrics: {error}"))
    }

    /// Answers for ever.
    pub(super) fn serve(listeners: &[TcpListener], handle: &Handle, reserve: &Reserve) {
        let executor = LocalExecutor::new();
        // Not that of smol, which would wait for the sockets of all threads: the threads that serve would be
        // woken by this one.
        future::block_on(executor.run(accept(listeners, &executor, handle, reserve)));
    }

    async fn accept<'a>(
        listeners: &[TcpListener],
        executor: &LocalExecutor<'a>,
        handle: &'a Handle,
        reserve: &'a Reserve,
    ) {
        let none = stream::empty().boxed_local();
        let incoming = listeners.iter().map(TcpListener::incoming);
        let mut incoming = incoming.fold(none, |all, more| stream::race(all, more).boxed_local());
        let mut connections: VecDeque<Task<()>> = VecDeque::new();
        while let Some(accepted) = incoming.next().await {
            let Ok(connection) = accepted else {
                if !reserve.release() {
                    Timer::after(RETRY).await;
                }
                continue;
            };
            reserve.fill();
            connections.retain(|connection| !connection.is_finished());
            if connections.len() >= MAX_CONNECTIONS {
                connections.pop_front();
            }
            connections.push_back(executor.spawn(async move {
                let timeout = async {
                    Timer::after(TIME).await;
                    Err(io::ErrorKind::TimedOut.into())
                };
                // Nobody is there to be told.
                let _ = future::or(answer(connection.clone(), handle), timeout).await;
                reserve.fill_from(connection);
            }));
        }
    }

    /// A descriptor for a connection that comes while the clients of the server have all others. Whether the
    /// server is well has to be known then, too.
    pub(super) struct Reserve(RefCell<Option<OwnedFd>>);

    impl Reserve {
        pub(super) fn filled() -> Self {
            let reserve = Self(RefCell::new(None));
            reserve.fill();
            reserve
        }

        fn fill(&self) {
            let mut kept = self.0.borrow_mut();
            if kept.is_none() {
                *kept = io::stdin().as_fd().try_clone_to_owned().ok();
            }
        }

        /// Closes a connection. If need be, its descriptor is kept, before a client can have it.
        fn fill_from(&self, connection: TcpStream) {
            let mut kept = self.0.borrow_mut();
            if kept.is_some() {
                return;
            }
            let connection = Arc::<Async<std::net::TcpStream>>::from(connection);
            let connection = Arc::into_inner(connection).and_then(|one| one.into_inner().ok());
            if let Some(mut descriptor) = connection.map(OwnedFd::from) {
                *kept = dup2(io::stdin(), &mut descriptor)
                    .is_ok()
                    .then_some(descriptor);
            }
        }

        fn release(&self) -> bool {
            self.0.take().is_some()
        }
    }

    /// One request a connection.
    async fn answer(mut stream: TcpStream, handle: &Handle) -> io::Result<()> {
        let response = respond(&mut stream, handle).await?;
        stream.write_all(&response).await?;
        stream.shutdown(Shutdown::Write)?;
        // To close it with bytes unread would reset it, and the response could be lost.
        let mut body = stream.take(MAX_BODY);
        while body.read(&mut [0; 1024]).await? > 0 {}
        Ok(())
    }

    async fn respond(stream: &mut TcpStream, handle: &Handle) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&head) {
                Ok(httparse::Status::Complete(_)) => {
                    let method = request.method.unwrap_or_default();
                    let path = request.path.unwrap_or_default();
                    return Ok(route(method, path, handle));
                }
                Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => {}
                Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                    return Ok(message("431 Request Header Fields Too Large", "too long"));
                }
                Err(_) => return Ok(message("400 Bad Request", "this is no HTTP request")),
            }
            let mut bytes = [0; 1024];
            let room = bytes.len().min(MAX_HEAD - head.len());
            match stream.read(&mut bytes[..room]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => head.extend_from_slice(&bytes[..read]),
            }
        }
    }

    fn route(method: &str, path: &str, handle: &Handle) -> Vec<u8> {
        let path = path.split('?').next().unwrap_or_default();
        if !matches!(path, "/metrics" | "/healthz") {
            return message(
                "404 Not Found",
                "there are /metrics and /healthz, and nothing else",
            );
        }
        if !matches!(method, "GET" | "HEAD") {
            return response(
                "405 Method Not Allowed",
                TEXT,
                "Allow: GET, HEAD\r\n",
                "read only\n",
                true,
            );
        }
        let has_body = method == "GET";
        if path == "/metrics" {
            let metrics = handle.openmetrics();
            return response("200 OK", CONTENT_TYPE, "", &metrics, has_body);
        }
        let (status, health) = if handle.is_shutting_down() {
            ("503 Service Unavailable", "closing\n")
        } else if handle.stats().refusing > 0 {
            ("503 Service Unavailable", "store refuses writes\n")
        } else {
            ("200 OK", "serving\n")
        };
        response(status, TEXT, "", health, has_body)
    }

    fn message(status: &str, text: &str) -> Vec<u8> {
        response(status, TEXT, "", &format!("{text}\n"), true)
    }

    fn response(
        status: &str,
        content_type: &str,
        header: &str,
        text: &str,
        has_body: bool,
    ) -> Vec<u8> {
        let length = text.len();
        let body = if has_body { text } else { "" };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\
             {header}\r\n{body}"
        )
        .into_bytes()
    }
}
