//! Router advertisements that say that there is no router.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use bootsvc_proto::{Mac, ra};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::counters::count;
use crate::net::retry_after;
use crate::shared::Shared;

/// All hosts of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Time between advertisements that nobody asked for.
const PERIOD: Duration = Duration::from_secs(60);

/// Longest message read; a solicitation has 16 bytes.
const MESSAGE_LEN_MAX: usize = 256;

/// Answers solicitations, and advertises by itself, until told to stop.
pub(crate) async fn run(
    shared: Arc<Shared>,
    socket: UdpSocket,
    index: u32,
    ours: Mac,
    stop: CancellationToken,
) {
    let message = ra::advertisement(ours);
    let all = SocketAddr::V6(SocketAddrV6::new(ALL_NODES, 0, 0, index));
    let mut period = tokio::time::interval(PERIOD);
    let mut buffer = [0; MESSAGE_LEN_MAX];
    loop {
        let to = tokio::select! {
            () = stop.cancelled() => break,
            _ = period.tick() => all,
            received = socket.recv_from(&mut buffer) => match received {
                Ok((len, from)) if ra::is_solicitation(&buffer[..len]) => {
                    // A host without an address yet hears what all hear.
                    if from.ip().is_unspecified() { all } else { from }
                }
                Ok(_) => continue,
                Err(error) => {
                    retry_after("IPv6", &error).await;
                    continue;
                }
            },
        };
        match socket.send_to(&message, to).await {
            Ok(_) => count(&shared.counters.advertisements),
            // Without a link-local address, or while the link is down.
            Err(error) => debug!(%to, %error, "router advertisement not sent"),
        }
    }
}
