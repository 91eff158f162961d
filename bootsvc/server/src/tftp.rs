//! TFTP datagrams in and out, all by one socket.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bootsvc_proto::tftp::{Event, Limits, Server};
use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::counters::count;
use crate::net::retry_after;
use crate::shared::Shared;

/// IPv4, UDP and TFTP headers.
const HEADERS_LEN: u16 = 32;

/// Longest datagram read: requests have at most 512 bytes.
const DATAGRAM_LEN_MAX: usize = 1024;

/// A wait when no transfer is running; any event ends it.
const IDLE: Duration = Duration::from_secs(3600);

/// Serves until told to stop; running transfers end.
pub(crate) async fn run(shared: Arc<Shared>, socket: UdpSocket, mtu: u16, stop: CancellationToken) {
    let limits = Limits { blksize_max: mtu - HEADERS_LEN, ..Limits::default() };
    let mut server = Server::new(limits);
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    let mut out = Vec::new();
    while !stop.is_cancelled() {
        let idle = shared.clock.now() + IDLE;
        let wake = shared.clock.instant(server.deadline().unwrap_or(idle));
        tokio::select! {
            // A datagram that is there needs no timer, which is half of the work.
            biased;
            received = socket.recv_from(&mut buffer) => match received {
                Ok((len, SocketAddr::V4(peer))) => {
                    let open = |name: &str| open(&shared, peer, name);
                    server.receive(shared.clock.now(), peer, &buffer[..len], open);
                }
                Ok(_) => {}
                Err(error) => retry_after("TFTP", &error).await,
            },
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(wake) => {}
        }
        server.expire(shared.clock.now());
        while let Some(peer) = server.transmit(&mut out) {
            // Lost like any datagram: the deadline sends it again.
            if let Err(error) = socket.send_to(&out, peer).await {
                debug!(%peer, %error, "TFTP datagram not sent");
            }
        }
        while let Some(event) = server.next_event() {
            report(&shared, event);
        }
    }
}

/// Only to the networks that are served: a forged request from elsewhere would
/// make us send it files.
fn open(shared: &Shared, peer: SocketAddrV4, name: &str) -> Option<Bytes> {
    let scopes = &shared.config.dhcp.scopes;
    let served = scopes.iter().any(|scope| scope.subnet.contains(peer.ip()));
    let artifact = shared.artifacts.get(name).filter(|_| served)?;
    Some(artifact.bytes.clone())
}

fn report(shared: &Shared, event: Event) {
    match event {
        Event::Started { peer, name, blksize, window } => {
            debug!(%peer, name, blksize, window, "TFTP transfer starts");
        }
        Event::Finished { peer, name, bytes, elapsed, repeated } => {
            let mac = shared.machine(*peer.ip());
            shared.counters.tftp(&name, bytes);
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let mac_field = mac.map(tracing::field::display);
            info!(mac = mac_field, %peer, name, bytes, millis, repeated, "TFTP file sent");
            shared.boot_program_fetched(mac);
        }
        Event::Probed { peer, name } => debug!(%peer, name, "TFTP size asked for"),
        Event::Missing { peer, name } => debug!(%peer, name, "TFTP file not known"),
        Event::Refused { peer, why } => debug!(%peer, why, "TFTP request refused"),
        Event::Aborted { peer, name, error } => {
            count(&shared.counters.tftp_failed);
            let mac = shared.machine(*peer.ip()).map(tracing::field::display);
            warn!(mac, %peer, name, error, "TFTP transfer broken off by the client");
        }
        Event::TimedOut { peer, name } => {
            count(&shared.counters.tftp_failed);
            let mac = shared.machine(*peer.ip()).map(tracing::field::display);
            warn!(mac, %peer, name, "TFTP transfer given up: the client is silent");
        }
    }
}
