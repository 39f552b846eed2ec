//! A proxy between clients and a server, which cuts, stalls and half-closes connections.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures_lite::future;

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    /// The ends toward the client and toward the server.
    connections: Mutex<Vec<(TcpStream, TcpStream)>>,
    accepted: AtomicUsize,
    refusing: AtomicBool,
    gone: AtomicBool,
    stalled: Mutex<Stalled>,
    released: Condvar,
    /// Bytes that went on to the server.
    passed: AtomicUsize,
}

/// Connections up to these numbers pass on nothing to the server and to the client.
#[derive(Default)]
struct Stalled {
    up: usize,
    down: usize,
}

impl Proxy {
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            stalled: Mutex::default(),
            released: Condvar::new(),
            passed: AtomicUsize::new(0),
        });
        let proxy = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if proxy.gone.load(Ordering::SeqCst) {
                    return;
                }
                proxy.accept(near);
            }
        });
        Self { address, shared }
    }

    /// Connections that have come.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// From here on, the server is that one.
    pub fn set_upstream(&self, address: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = address;
    }

    /// Whether new connections end as soon as they have come.
    pub fn refuse(&self, yes: bool) {
        self.shared.refusing.store(yes, Ordering::SeqCst);
    }

    /// Ends all connections, in both directions.
    pub fn cut(&self) {
        for (near, far) in self.shared.connections.lock().unwrap().drain(..) {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }

    /// Ends what comes from the server; what goes to it is still passed on.
    pub fn half_close(&self) {
        for (near, _) in &*self.shared.connections.lock().unwrap() {
            let _ = near.shutdown(Shutdown::Write);
        }
    }

    /// The connections of now pass on nothing any more, in either direction.
    pub fn stall(&self) {
        let (up, down) = (self.accepted(), self.accepted());
        *self.shared.stalled.lock().unwrap() = Stalled { up, down };
    }

    /// The connections of now pass on no replies any more.
    pub fn hold_replies(&self) {
        self.shared.stalled.lock().unwrap().down = self.accepted();
    }

    /// All connections pass on everything again.
    pub fn release(&self) {
        *self.shared.stalled.lock().unwrap() = Stalled::default();
        self.shared.released.notify_all();
    }

    /// Makes a call, lets the server have it, and ends the connection before any reply has come.
    pub async fn lose_replies_of<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        let passed = self.passed();
        self.hold_replies();
        while self.passed() == passed {
            assert!(future::poll_once(call.as_mut()).await.is_none());
            smol::Timer::after(Duration::from_millis(1)).await;
        }
        self.half_close();
        let outcome = call.await;
        self.release();
        outcome
    }

    fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, near: TcpStream) {
        let number = self.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        if self.refusing.load(Ordering::SeqCst) {
            return;
        }
        let upstream = *self.upstream.lock().unwrap();
        let Ok(far) = TcpStream::connect(upstream) else {
            return;
        };
        let pair = |near: &TcpStream, far: &TcpStream| {
            (near.try_clone().unwrap(), far.try_clone().unwrap())
        };
        self.connections.lock().unwrap().push(pair(&near, &far));
        let (up, down) = (pair(&near, &far), (far, near));
        for ((from, to), is_up) in [(up, true), (down, false)] {
            let shared = self.clone();
            thread::spawn(move || shared.pump(number, &from, &to, is_up));
        }
    }

    fn pump(&self, number: usize, mut from: &TcpStream, mut to: &TcpStream, is_up: bool) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let stalled = self.stalled.lock().unwrap();
            let is_stalled = |stalled: &mut Stalled| match is_up {
                true => number <= stalled.up,
                false => number <= stalled.down,
            };
            drop(self.released.wait_while(stalled, is_stalled).unwrap());
            if to.write_all(&buffer[..read]).is_err() {
                // The other direction goes on.
                continue;
            }
            if is_up {
                self.passed.fetch_add(read, Ordering::SeqCst);
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        self.cut();
        self.release();
        let _ = TcpStream::connect(self.address);
    }
}
