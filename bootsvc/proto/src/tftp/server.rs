//! All transfers of one socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;

use super::packet::{self, ErrorCode, Mode, Packet, ReadRequest, clean_name};
use super::transfer::{Step, Transfer};

/// Bounds on what clients can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest block: the MTU of the interface less 32 (IPv4, UDP and TFTP headers).
    pub blksize_max: u16,
    /// Most blocks per acknowledgement.
    pub window_max: u16,
    /// Most transfers at a time. Beyond it new requests are dropped, running
    /// transfers are kept; the client asks again.
    pub transfers_max: usize,
    /// Most transfers at a time to one address.
    pub transfers_per_address_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            blksize_max: 1468,
            window_max: 64,
            transfers_max: 1024,
            transfers_per_address_max: 32,
        }
    }
}

/// What happened, for logs and counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A transfer begins.
    Started {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        name: String,
        /// Bytes per block.
        blksize: u16,
        /// Blocks per acknowledgement.
        window: u16,
    },
    /// The client has the whole file.
    Finished {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        name: String,
        /// Its length.
        bytes: u64,
        /// How long it took.
        elapsed: Duration,
        /// Blocks sent more than once.
        repeated: u64,
    },
    /// The client only wanted to know the size. No failure: every download by
    /// UEFI firmware begins so.
    Probed {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        name: String,
    },
    /// The client gave up, with this error number.
    Aborted {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        name: String,
        /// The error number that it sent.
        error: u16,
    },
    /// The client is silent.
    TimedOut {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        name: String,
    },
    /// There is no such file. No failure: firmware and loaders try names.
    Missing {
        /// The client.
        peer: SocketAddrV4,
        /// The name, cleaned.
        name: String,
    },
    /// A request that is not served, and why.
    Refused {
        /// The client.
        peer: SocketAddrV4,
        /// Why.
        why: &'static str,
    },
}

/// A TFTP server without a socket. After any call, [`Server::transmit`] is to
/// be called until it has nothing more.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    transfers: BTreeMap<SocketAddrV4, Transfer>,
    deadlines: BTreeSet<(Duration, SocketAddrV4)>,
    per_address: BTreeMap<Ipv4Addr, usize>,
    /// Transfers that may have something to send, each once.
    ready: VecDeque<SocketAddrV4>,
    errors: VecDeque<(SocketAddrV4, Vec<u8>)>,
    events: VecDeque<Event>,
}

/// Most errors waiting to be sent; further ones are dropped.
const ERRORS_MAX: usize = 256;

/// Most events waiting to be fetched; further ones are dropped.
const EVENTS_MAX: usize = 4096;

impl Server {
    /// A server without transfers.
    pub fn new(limits: Limits) -> Server {
        Server {
            limits,
            transfers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            per_address: BTreeMap::new(),
            ready: VecDeque::new(),
            errors: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A datagram came from `peer`. `open` has the files by their clean names.
    pub fn receive(
        &mut self,
        now: Duration,
        peer: SocketAddrV4,
        datagram: &[u8],
        open: impl FnOnce(&str) -> Option<Bytes>,
    ) {
        let (ip, port) = (peer.ip(), peer.port());
        if ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || port < 1024 {
            // A forged sender: clients use high ports.
            return self.event(Event::Refused { peer, why: "no client has this address or port" });
        }
        match Packet::decode(datagram) {
            Ok(Packet::Read(request)) => self.read(now, peer, request, open),
            Ok(Packet::Ack(number)) if self.transfers.contains_key(&peer) => {
                self.advance(peer, |transfer| transfer.acked(now, number));
            }
            Ok(Packet::Ack(_) | Packet::Stray) => {
                self.error(peer, ErrorCode::UnknownTransfer, "unknown transfer");
            }
            Ok(Packet::Write) => {
                self.error(peer, ErrorCode::Access, "this server only sends files");
                self.event(Event::Refused { peer, why: "it wants to write a file" });
            }
            // Never an error for an error.
            Ok(Packet::Error(number)) => self.aborted(peer, number),
            Err(_) => self.error(peer, ErrorCode::Illegal, "not a TFTP request"),
        }
    }

    /// The next datagram: its bytes go into `out`, which is cleared, its
    /// receiver is returned.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddrV4> {
        out.clear();
        if let Some((peer, bytes)) = self.errors.pop_front() {
            out.extend_from_slice(&bytes);
            return Some(peer);
        }
        while let Some(peer) = self.ready.pop_front() {
            if self.transfers.get_mut(&peer).is_some_and(|transfer| transfer.next(out)) {
                self.ready.push_back(peer);
                return Some(peer);
            }
        }
        None
    }

    /// When [`Server::expire`] is to be called next.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Sends again what was not acknowledged in time.
    pub fn expire(&mut self, now: Duration) {
        while let Some((_, peer)) = self.deadlines.first().filter(|(at, _)| *at <= now).copied() {
            self.advance(peer, |transfer| transfer.timed_out(now));
        }
    }

    /// What happened since the last call.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Transfers that are running.
    pub fn transfers(&self) -> usize {
        self.transfers.len()
    }

    fn read(
        &mut self,
        now: Duration,
        peer: SocketAddrV4,
        request: ReadRequest,
        open: impl FnOnce(&str) -> Option<Bytes>,
    ) {
        let request = ReadRequest { name: clean_name(&request.name), ..request };
        if let Some(running) = self.transfers.get_mut(&peer) {
            if running.request == request && running.is_new() {
                // Our first answer was lost, or is late.
                running.repeat();
                return self.make_ready(peer);
            }
            self.remove(peer);
        }
        if request.mode != Mode::Octet {
            self.error(peer, ErrorCode::Other, "only octet (binary) mode is served");
            return self.event(Event::Refused { peer, why: "it wants another mode than octet" });
        }
        let Some(file) = open(&request.name) else {
            self.error(peer, ErrorCode::NotFound, "file not found");
            return self.event(Event::Missing { peer, name: request.name });
        };
        let running = self.per_address.get(peer.ip()).copied().unwrap_or(0);
        let full = self.transfers.len() >= self.limits.transfers_max;
        if full || running >= self.limits.transfers_per_address_max {
            return self.event(Event::Refused { peer, why: "too many transfers at a time" });
        }
        self.start(now, peer, request, file);
    }

    fn start(&mut self, now: Duration, peer: SocketAddrV4, request: ReadRequest, file: Bytes) {
        let transfer = Transfer::new(now, request, file, &self.limits);
        self.event(Event::Started {
            peer,
            name: transfer.request.name.clone(),
            blksize: transfer.blksize(),
            window: transfer.window(),
        });
        self.deadlines.insert((transfer.deadline, peer));
        *self.per_address.entry(*peer.ip()).or_default() += 1;
        self.transfers.insert(peer, transfer);
        self.make_ready(peer);
    }

    /// Applies `step` to the transfer of `peer` and does what follows from it.
    fn advance(&mut self, peer: SocketAddrV4, step: impl FnOnce(&mut Transfer) -> Step) {
        let Some(transfer) = self.transfers.get_mut(&peer) else { return };
        let before = transfer.deadline;
        let outcome = step(transfer);
        if transfer.deadline != before {
            self.deadlines.remove(&(before, peer));
            self.deadlines.insert((transfer.deadline, peer));
        }
        match outcome {
            Step::Nothing => {}
            Step::Continue => self.make_ready(peer),
            Step::Finished => self.finished(peer),
            Step::GivenUp => {
                let Some(transfer) = self.remove(peer) else { return };
                let name = transfer.request.name;
                self.event(Event::TimedOut { peer, name });
            }
        }
    }

    fn finished(&mut self, peer: SocketAddrV4) {
        let Some(transfer) = self.remove(peer) else { return };
        self.event(Event::Finished {
            peer,
            bytes: u64::try_from(transfer.file.len()).unwrap_or(u64::MAX),
            elapsed: transfer.elapsed(),
            repeated: transfer.repeated,
            name: transfer.request.name,
        });
    }

    fn aborted(&mut self, peer: SocketAddrV4, error: u16) {
        let Some(transfer) = self.remove(peer) else { return };
        let probe = transfer.is_negotiating();
        let name = transfer.request.name;
        self.event(if probe {
            Event::Probed { peer, name }
        } else {
            Event::Aborted { peer, name, error }
        });
    }

    fn remove(&mut self, peer: SocketAddrV4) -> Option<Transfer> {
        let transfer = self.transfers.remove(&peer)?;
        self.deadlines.remove(&(transfer.deadline, peer));
        if let Some(count) = self.per_address.get_mut(peer.ip()) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(peer.ip());
            }
        }
        Some(transfer)
    }

    fn make_ready(&mut self, peer: SocketAddrV4) {
        if !self.ready.contains(&peer) {
            self.ready.push_back(peer);
        }
    }

    fn error(&mut self, peer: SocketAddrV4, code: ErrorCode, text: &str) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push_back((peer, packet::error(code, text)));
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}
