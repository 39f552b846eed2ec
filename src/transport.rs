//! What carries the bytes of servers and clients, and the options of their TCP sockets.

#[cfg(feature = "client")]
pub(crate) mod connect;
#[cfg(all(feature = "client", feature = "server"))]
pub(crate) mod pipe;

use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use socket2::TcpKeepalive;

/// Anything that carries bytes both ways.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// How long a TCP peer may be silent before the system sends keepalive probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Of the sockets of servers and clients.
pub(crate) fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    // With Linux's defaults, a dead peer would be found only after 12 minutes.
    #[cfg(target_os = "linux")]
    let keepalive = keepalive
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    keepalive
}
