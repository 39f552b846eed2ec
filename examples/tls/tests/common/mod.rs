//! What the tests share: certificates, servers behind TLS, and clients that wait under a deadline.

// Each test file is a crate of its own and uses its own part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    future::Future,
    io,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_lite::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future,
    io::BufReader,
};
use keywire::{
    Handle, Listener, Server,
    tls::{
        Pem, TlsConnector, TlsListener, client_config,
        futures_rustls::client,
        rustls::{ClientConfig, ServerConfig, pki_types::ServerName},
        server_config,
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use smol::{
    Timer,
    net::{TcpListener, TcpStream},
};

/// How long a test waits for something that has to come. Only a failure takes as long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test's clients, under the deadline.
pub fn run<T>(clients: impl Future<Output = T>) -> T {
    smol::block_on(future::or(clients, async {
        Timer::after(DEADLINE).await;
        panic!("it takes too long")
    }))
}

/// Looks again and again until it is so. For what has no event to wait for, such as a count.
pub async fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        Timer::after(Duration::from_millis(1)).await;
    }
}

/// One that vouches for others.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: Pem,
    pub key: Pem,
    pub certificate_text: String,
    pub key_text: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    pub fn text(&self) -> String {
        self.issuer.pem()
    }

    pub fn pem(&self) -> Pem {
        Pem::from_text("the authority", self.text())
    }

    /// For `localhost` and the loopback's address.
    pub fn vouch(&self) -> Identity {
        self.vouch_with(|_| ())
    }

    pub fn vouch_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate_text = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key_text = key.serialize_pem();
        Identity {
            certificate: Pem::from_text("the certificate", &*certificate_text),
            key: Pem::from_text("the key", &*key_text),
            certificate_text,
            key_text,
        }
    }

    /// Trusts it, and shows nothing.
    pub fn client(&self) -> Arc<ClientConfig> {
        client_config(&self.pem(), None).unwrap()
    }

    pub fn client_as(&self, own: &Identity) -> Arc<ClientConfig> {
        client_config(&self.pem(), Some((&own.certificate, &own.key))).unwrap()
    }
}

impl Identity {
    pub fn server(&self) -> Arc<ServerConfig> {
        server_config(&self.certificate, &self.key, None).unwrap()
    }
}

/// A server behind TLS on a free port of the loopback, on a thread of its own.
pub struct TlsServer {
    pub address: SocketAddr,
    pub handle: Handle,
    pub authority: Authority,
    serving: Option<JoinHandle<()>>,
}

impl TlsServer {
    pub fn start() -> Self {
        Self::with(Server::new(), |listener| listener)
    }

    pub fn with(
        server: Server,
        limits: impl FnOnce(TlsListener<TcpListener>) -> TlsListener<TcpListener>,
    ) -> Self {
        let authority = Authority::new("ours");
        let config = authority.vouch().server();
        Self::behind(server, authority, config, limits)
    }

    pub fn behind<L: Listener>(
        mut server: Server,
        authority: Authority,
        config: Arc<ServerConfig>,
        wrap: impl FnOnce(TlsListener<TcpListener>) -> L,
    ) -> Self {
        let listener = smol::block_on(keywire::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        server.listen(wrap(TlsListener::new(listener, config)));
        let handle = server.handle();
        Self {
            address,
            handle,
            authority,
            serving: Some(thread::spawn(|| {
                smol::block_on(server.run());
            })),
        }
    }

    pub async fn plain(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn connect(&self) -> Talk<TcpStream> {
        self.connect_as(self.authority.client()).await.unwrap()
    }

    pub async fn connect_as(&self, config: Arc<ClientConfig>) -> io::Result<Talk<TcpStream>> {
        let stream = self.plain().await;
        stream.set_nodelay(true)?;
        Talk::over(stream, config).await
    }

    pub async fn await_counts(&self, active: u64, dropped: u64) {
        wait_until("the counts are right", || {
            let stats = self.handle.stats();
            (stats.active, stats.dropped) == (active, dropped)
        })
        .await;
    }

    /// Shuts down with this grace.
    pub async fn stop(mut self, grace: Duration) {
        self.handle.shutdown(grace).await;
        self.serving.take().unwrap().join().unwrap();
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        // After a failure there may be nobody who would answer.
        if let Some(serving) = self.serving.take().filter(|_| !thread::panicking()) {
            future::block_on(self.handle.shutdown(Duration::ZERO));
            serving.join().unwrap();
        }
    }
}

/// A client that speaks TLS. Every failure but that of the handshake is a panic.
pub struct Talk<T> {
    stream: BufReader<client::TlsStream<T>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Talk<T> {
    pub async fn over(stream: T, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub fn stream(&mut self) -> &mut client::TlsStream<T> {
        self.stream.get_mut()
    }

    pub fn into_stream(self) -> client::TlsStream<T> {
        self.stream.into_inner()
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.stream.get_mut();
        stream.write_all(bytes.as_ref()).await.unwrap();
        stream.flush().await.unwrap();
    }

    /// The next line, without its LF; `None` where the server says that no more will come.
    pub async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        match line.pop() {
            Some('\n') => Some(line),
            Some(_) => panic!("the stream ended within a line"),
            None => None,
        }
    }

    pub async fn text(&mut self) -> String {
        self.line().await.expect("one more line")
    }

    /// A round trip: everything before it is done, and nothing was lost.
    pub async fn sync(&mut self) {
        self.send("Sync\n").await;
        assert_eq!(self.text().await, ":sync:0:");
    }

    /// Says that no more commands will come, and reads everything.
    pub async fn end(mut self) -> String {
        self.stream.get_mut().close().await.unwrap();
        self.rest().await
    }

    /// Everything up to the server's own word that no more will come.
    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

impl Talk<TcpStream> {
    /// The end of the connection's input, of which TLS does not know.
    pub fn cut(&mut self) {
        let (socket, _) = self.stream().get_ref();
        socket.shutdown(Shutdown::Write).unwrap();
    }
}

/// Hangs up with a reset.
pub fn reset(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}
