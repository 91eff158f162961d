//! DHCP datagrams in and out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bootsvc_proto::dhcp::{Answer, MessageKind, Outcome, Reply, Request, Silence};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::counters::count;
use crate::leases::LeaseLog;
use crate::net::retry_after;
use crate::shared::Shared;

/// Requests in work at a time; those beyond are dropped, clients ask again.
const REQUESTS_MAX: usize = 512;

/// Longest datagram read. Firmware sends some 600 bytes.
const DATAGRAM_LEN_MAX: usize = 4096;

/// Answers until told to stop; then finishes what is in work.
pub(crate) async fn run(
    shared: Arc<Shared>,
    socket: UdpSocket,
    log: LeaseLog,
    stop: CancellationToken,
) {
    let socket = Arc::new(socket);
    let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
    let tasks = TaskTracker::new();
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => break,
            received = socket.recv_from(&mut buffer) => received,
        };
        let Some(request) = decode(&shared, received, &buffer).await else { continue };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            count(&shared.counters.dhcp.dropped);
            continue;
        };
        let (shared, socket, log) = (Arc::clone(&shared), Arc::clone(&socket), log.clone());
        tasks.spawn(async move {
            answer(&shared, &socket, &log, &request).await;
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn decode(
    shared: &Shared,
    received: io::Result<(usize, SocketAddr)>,
    buffer: &[u8],
) -> Option<Request> {
    let (len, from) = match received {
        Ok(received) => received,
        Err(error) => {
            retry_after("DHCP", &error).await;
            return None;
        }
    };
    count(&shared.counters.dhcp.received);
    match Request::decode(&buffer[..len]) {
        Ok(request) => request,
        Err(error) => {
            count(&shared.counters.dhcp.broken);
            debug!(%from, %error, "DHCP datagram not understood");
            None
        }
    }
}

async fn answer(shared: &Shared, socket: &UdpSocket, log: &LeaseLog, request: &Request) {
    let place = shared.dhcp().place(request);
    let intent = shared.decide(&request.client, place.as_ref()).await;
    let (outcome, written) = {
        let mut server = shared.dhcp();
        let Answer { changes, outcome } = server.handle(shared.clock.now(), request, intent);
        // Handed in under the lock, so that changes are written in their order.
        let written = (!changes.is_empty()).then(|| log.write(changes));
        (outcome, written)
    };
    // What is acknowledged must survive a crash.
    if let Some(written) = written
        && written.await != Ok(true)
    {
        return;
    }
    let (mac, platform) = (request.client.mac, request.client.platform());
    match outcome {
        Outcome::Reply(reply) => {
            if let Some(attachment) = &reply.attachment {
                shared.witness.attached(mac, attachment);
            }
            send(shared, socket, request, &reply).await;
        }
        Outcome::Released(address) => info!(%mac, %address, "DHCP address released"),
        Outcome::Declined(address) => warn!(
            %mac, %address,
            "DHCP address declined: another host uses it; find out which"
        ),
        Outcome::Silent(why) => {
            count(&shared.counters.dhcp.unanswered);
            match why {
                Silence::OtherServer(_) | Silence::NoAddress => {
                    warn!(%mac, %platform, %why, "DHCP request not answered");
                }
                _ => debug!(%mac, %platform, %why, "DHCP request not answered"),
            }
        }
    }
}

async fn send(shared: &Shared, socket: &UdpSocket, request: &Request, reply: &Reply) {
    let counters = &shared.counters.dhcp;
    let (counter, message) = match reply.kind {
        MessageKind::Offer => (&counters.offers, "DHCP offer"),
        MessageKind::Nak => (&counters.naks, "DHCP refusal"),
        _ => (&counters.acks, "DHCP acknowledgement"),
    };
    let client = &request.client;
    if let Err(error) = socket.send_to(&reply.bytes, reply.to).await {
        warn!(mac = %client.mac, to = %reply.to, %error, "{message} not sent");
        return;
    }
    count(counter);
    info!(
        mac = %client.mac,
        platform = %client.platform(),
        program = %client.program,
        address = reply.address.map(tracing::field::display),
        sent = reply.boot.as_ref().map(|boot| tracing::field::display(boot.stage)),
        file = reply.boot.as_ref().and_then(|boot| boot.file.as_deref()),
        "{message}"
    );
}
