//! Writes through TLS that fail when some records are sent. The node is in the transport.

use std::io::Read as _;

use super::*;
use crate::{
    protocol::{Operation, Write},
    store::cluster::{
        job::{Job, Outcome},
        slots::{SLOTS, SlotRange},
    },
    tls::{
        TlsConnector,
        rustls::{
            ClientConfig, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
            SignatureScheme,
            client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            crypto::ring,
            pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
            sign::{CertifiedKey, SingleCertAndKey},
        },
    },
};

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8.
const ED25519: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// The type and the length of a record stand before it.
const RECORD_HEADER: usize = 5;

/// A transport to a node, which takes so many records and then fails.
struct Node {
    session: ServerConnection,
    records: usize,
    /// What has come through TLS.
    received: Vec<u8>,
}

impl Node {
    fn new() -> Self {
        let provider = ring::default_provider();
        let key = PrivatePkcs8KeyDer::from([ED25519, &[7; 32]].concat());
        let key = provider.key_provider.load_private_key(key.into()).unwrap();
        let certificate = CertificateDer::from(&b"no client looks at it"[..]);
        let certified = CertifiedKey::new(vec![certificate], key);
        let config = ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        Self {
            session: ServerConnection::new(config.into()).unwrap(),
            records: usize::MAX,
            received: Vec::new(),
        }
    }
}

impl AsyncRead for Node {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.session.wants_write() {
            true => Poll::Ready(self.session.write_tls(&mut bytes)),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for Node {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.records == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.records -= 1;
        let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        let (record, _) = bytes.split_at(RECORD_HEADER + length);
        let node = &mut *self;
        let mut left = record;
        while !left.is_empty() {
            node.session.read_tls(&mut left)?;
            node.session.process_new_packets().unwrap();
            // It ends with the error that there is no more for now.
            let _ = node.session.reader().read_to_end(&mut node.received);
        }
        Poll::Ready(Ok(record.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct TrustsAll;

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn connector() -> TlsConnector {
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAll))
        .with_no_client_auth();
    Arc::new(config).into()
}

/// The node may have applied what it has got, so none of that is sent again.
#[test]
fn a_write_that_failed_has_perhaps_sent_all() {
    // Longer than half a record.
    const VALUE: usize = 10_000;
    let shared = shared();
    let now = Instant::now();
    let row = SlotRange {
        first: 0,
        last: SLOTS - 1,
        master: shared.state().router.nodes[0].address.clone(),
        replicas: Vec::new(),
        epoch: None,
    };
    {
        let router = &mut shared.state().router;
        router.on_slots(None, &[row], now);
        assert_eq!(router.next_connect().unwrap().0, 0);
        router.on_connected(0, now);
        router.on_reply(0, b"$1\r\nx\r\n", now).unwrap();
    }
    let put = |value: u8| {
        let write = Write::Put {
            key: &[value],
            value: &[value; VALUE],
        };
        let put = [Operation::Write(write)];
        let job = Job::new(&put, &shared.layout, usize::MAX, |_| false);
        shared.state().router.submit(job, now)
    };
    let jobs = [b'a', b'b', b'c', b'd'].map(|value| (value, put(value)));

    let name = ServerName::try_from("node").unwrap();
    let mut stream = future::block_on(connector().connect(name, Node::new())).unwrap();
    stream.get_mut().0.records = 1;
    let mut open = Open::new(Stream::Tls(Box::new(stream)));
    let cx = &mut Context::from_waker(Waker::noop());
    open.poll_write(0, &shared, now, cx).unwrap_err();
    let Stream::Tls(stream) = &open.stream else {
        unreachable!("it is TLS");
    };
    let received = &stream.get_ref().0.received;
    assert!(received.contains(&b'a') && received.len() < 2 * VALUE);
    let router = &mut shared.state().router;
    router.on_closed(0, now);
    for (value, job) in jobs {
        let has_come = received.windows(9).any(|it| *it == [value; 9]);
        let job = router.take(job);
        let outcome = job.as_ref().map(|job| &job.requests[0].outcome);
        let is_in_doubt = matches!(outcome, Some(Outcome::Unconfirmed(_)));
        assert!(is_in_doubt || !has_come, "{}: {outcome:?}", value as char);
    }
}
