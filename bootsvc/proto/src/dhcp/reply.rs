//! How an answer is written: its options, their order, and where it goes.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::config::{Config, Scope};
use super::packet::{MessageKind, Op, Options, Packet, code};
use super::relay::Attachment;
use super::request::Request;
use super::{CLIENT_PORT, SERVER_PORT};
use crate::Boot;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Where to; `255.255.255.255` is the network that the request came from.
    pub to: SocketAddrV4,
    /// What.
    pub bytes: Vec<u8>,
    /// Offer, Ack or Nak.
    pub kind: MessageKind,
    /// The address that it gives; `None` for Nak and the answer to Inform.
    pub address: Option<Ipv4Addr>,
    /// Its boot fields; `None` for Nak.
    pub boot: Option<Boot>,
    /// Where the client is; only where an address is committed, and the request
    /// shows it.
    pub attachment: Option<Box<Attachment>>,
}

/// Size of a datagram that everybody must accept (RFC 2131 §2).
const DATAGRAM_LEN: u16 = 576;

/// Size of a datagram that is not fragmented on Ethernet. Firmware that says
/// it takes 64 KiB gets no more than this.
const DATAGRAM_LEN_MAX: u16 = 1500;

/// IPv4 and UDP headers.
const HEADERS_LEN: u16 = 28;

impl Reply {
    /// Gives `address` (`None`: it has one and asked for the rest) to the
    /// sender of `request`, and says what to boot.
    pub(super) fn grant(
        request: &Request,
        config: &Config,
        scope: &Scope,
        kind: MessageKind,
        address: Option<Ipv4Addr>,
        boot: Boot,
    ) -> Reply {
        let mut options = head(config, kind);
        let secs = u32::try_from(config.lease.as_secs()).unwrap_or(u32::MAX);
        if address.is_some() {
            options.push(code::LEASE_TIME, &secs.to_be_bytes());
        }
        network(&mut options, scope);
        boot_options(&mut options, &boot);
        mirror(&mut options, request, &[code::CLIENT_UUID, code::CLIENT_ID, code::RELAY_AGENT]);
        // From here on what a client can do without.
        name_servers(&mut options, scope);
        options.push(code::BROADCAST_ADDRESS, &scope.subnet.broadcast().octets());
        if address.is_some() {
            options.push(code::RENEWAL_TIME, &(secs / 2).to_be_bytes());
            options.push(code::REBINDING_TIME, &(secs - secs / 8).to_be_bytes());
        }
        let file = boot.file.clone().unwrap_or_default().into_bytes();
        if !file.is_empty() {
            options.push(code::BOOT_FILE, &file);
        }
        let ciaddr = match kind {
            MessageKind::Offer => Ipv4Addr::UNSPECIFIED,
            _ => request.packet.ciaddr,
        };
        let packet = Packet {
            ciaddr,
            yiaddr: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            siaddr: boot.file.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |_| config.server),
            file,
            options,
            ..answer_to(&request.packet)
        };
        let bytes = packet.encode(len_max(request));
        let commits = kind == MessageKind::Ack && address.is_some();
        let attachment = commits.then(|| Attachment::of(request, scope.subnet)).flatten();
        let attachment = attachment.map(Box::new);
        Reply { to: destination(request, kind), bytes, kind, address, boot: Some(boot), attachment }
    }

    /// Says that the address is not the client's, and why, for people.
    pub(super) fn refuse(request: &Request, config: &Config, why: &str) -> Reply {
        let kind = MessageKind::Nak;
        let mut options = head(config, kind);
        mirror(&mut options, request, &[code::CLIENT_ID, code::RELAY_AGENT]);
        options.push(code::MESSAGE, why.as_bytes());
        let mut packet = Packet { options, ..answer_to(&request.packet) };
        // A relay must broadcast it: the client's address is wrong (RFC 2131 §4.3.2).
        packet.broadcast |= !request.packet.giaddr.is_unspecified();
        let bytes = packet.encode(len_max(request));
        let (address, boot, attachment) = (None, None, None);
        Reply { to: destination(request, kind), bytes, kind, address, boot, attachment }
    }
}

/// The fields that every reply copies (RFC 2131 §4.3.1, table 3).
fn answer_to(request: &Packet) -> Packet {
    Packet {
        op: Op::Reply,
        hops: 0,
        secs: 0,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        file: Vec::new(),
        options: Options::default(),
        mac: request.mac,
        xid: request.xid,
        broadcast: request.broadcast,
        giaddr: request.giaddr,
    }
}

/// To the relay; else to the client's address where it has one; else to all,
/// whether or not it asked for that: some firmware cannot receive otherwise,
/// and an unconfigured address cannot be resolved.
fn destination(request: &Request, kind: MessageKind) -> SocketAddrV4 {
    let Packet { giaddr, ciaddr, .. } = request.packet;
    if !giaddr.is_unspecified() {
        SocketAddrV4::new(giaddr, SERVER_PORT)
    } else if !ciaddr.is_unspecified() && kind == MessageKind::Ack {
        SocketAddrV4::new(ciaddr, CLIENT_PORT)
    } else {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT)
    }
}

fn len_max(request: &Request) -> usize {
    let asked = request.packet.options.number(code::SIZE_MAX).unwrap_or(DATAGRAM_LEN);
    usize::from(asked.clamp(DATAGRAM_LEN, DATAGRAM_LEN_MAX) - HEADERS_LEN)
}

fn head(config: &Config, kind: MessageKind) -> Options {
    let mut options = Options::default();
    options.push(code::MESSAGE_TYPE, &[kind.to_u8()]);
    options.push(code::SERVER_ID, &config.server.octets());
    options
}

fn network(options: &mut Options, scope: &Scope) {
    options.push(code::SUBNET_MASK, &scope.subnet.netmask().octets());
    if let Some(router) = scope.router {
        options.push(code::ROUTER, &router.octets());
    }
}

fn name_servers(options: &mut Options, scope: &Scope) {
    for server in &scope.name_servers {
        options.push(code::NAME_SERVER, &server.octets());
    }
}

fn boot_options(options: &mut Options, boot: &Boot) {
    let fields = [(code::CLASS, boot.class), (code::VENDOR, boot.vendor), (code::IPXE, boot.ipxe)];
    for (code, value) in fields {
        if let Some(value) = value {
            options.push(code, value);
        }
    }
}

/// Options that go back as they came: 61 by RFC 6842, 82 by RFC 3046, 97
/// because PXE firmware compares it.
fn mirror(options: &mut Options, request: &Request, codes: &[u8]) {
    for code in codes {
        if let Some(value) = request.packet.options.get(*code) {
            options.push(*code, value);
        }
    }
}
