//! The bytes of a DHCP message.
//!
//! Reading is lenient, since firmware is not: an option that makes no sense
//! hides no other, split options are joined (RFC 3396), options in the `file`
//! and `sname` fields are found (overload, RFC 2132 §9.3), whatever is cut off
//! at the end is ignored. Any bytes are read without panic.

use std::net::Ipv4Addr;

use crate::Mac;

/// Option numbers used here (IANA "BOOTP Vendor Extensions and DHCP Options").
pub mod code {
    #![expect(missing_docs, reason = "the names are those of the registry")]
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const MESSAGE: u8 = 56;
    pub const SIZE_MAX: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const BOOT_FILE: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY_AGENT: u8 = 82;
    pub const ARCHITECTURE: u8 = 93;
    pub const CLIENT_UUID: u8 = 97;
    pub const IPXE: u8 = 175;
}

const PAD: u8 = 0;
const END: u8 = 255;

/// First bytes of the options; a message without them is BOOTP of before 1988.
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Length of the fixed part with the cookie.
const HEADER_LEN: usize = 240;

/// Shortest message sent: relays and old ROMs expect the size of BOOTP.
const LEN_MIN: usize = 300;

/// Direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// From a client.
    Request,
    /// From a server.
    Reply,
}

/// Value of option 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    /// Client looks for servers.
    Discover,
    /// Server offers an address.
    Offer,
    /// Client wants or keeps an address.
    Request,
    /// Client found that the address is in use.
    Decline,
    /// Server commits an address.
    Ack,
    /// Server says that the address is not the client's.
    Nak,
    /// Client gives its address back.
    Release,
    /// Client has an address and asks for the rest.
    Inform,
}

impl MessageKind {
    const ALL: [MessageKind; 8] = [
        MessageKind::Discover,
        MessageKind::Offer,
        MessageKind::Request,
        MessageKind::Decline,
        MessageKind::Ack,
        MessageKind::Nak,
        MessageKind::Release,
        MessageKind::Inform,
    ];

    /// The kind with this number.
    pub fn from_u8(number: u8) -> Option<MessageKind> {
        MessageKind::ALL.into_iter().find(|kind| kind.to_u8() == number)
    }

    /// Its number.
    pub fn to_u8(self) -> u8 {
        match self {
            MessageKind::Discover => 1,
            MessageKind::Offer => 2,
            MessageKind::Request => 3,
            MessageKind::Decline => 4,
            MessageKind::Ack => 5,
            MessageKind::Nak => 6,
            MessageKind::Release => 7,
            MessageKind::Inform => 8,
        }
    }
}

/// Options by number, in the order in which they came or are to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// The bytes of the option `code`.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(c, _)| *c == code).map(|(_, bytes)| bytes.as_slice())
    }

    /// Appends `bytes` to the option `code`, or adds it behind all others.
    pub fn push(&mut self, code: u8, bytes: &[u8]) {
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some((_, present)) => present.extend_from_slice(bytes),
            None => self.0.push((code, bytes.to_vec())),
        }
    }

    /// All options in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, bytes)| (*code, bytes.as_slice()))
    }

    /// The first byte of the option `code`.
    pub fn byte(&self, code: u8) -> Option<u8> {
        self.get(code)?.first().copied()
    }

    /// The first two bytes of the option `code` as a number.
    pub fn number(&self, code: u8) -> Option<u16> {
        self.get(code)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// The first four bytes of the option `code` as an address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.get(code)?.first_chunk().map(|bytes| Ipv4Addr::from(*bytes))
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((code, rest)) = bytes.split_first() {
            bytes = match (*code, rest.split_first()) {
                (PAD, _) => rest,
                (END, _) | (_, None) => return,
                (code, Some((len, rest))) => {
                    let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else {
                        return;
                    };
                    self.push(code, value);
                    rest
                }
            };
        }
    }
}

/// One DHCP message of an Ethernet client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Direction.
    pub op: Op,
    /// The client's hardware address.
    pub mac: Mac,
    /// Relays passed.
    pub hops: u8,
    /// Transaction, chosen by the client.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client cannot receive unicast yet.
    pub broadcast: bool,
    /// The client's address, where it has one.
    pub ciaddr: Ipv4Addr,
    /// The address given to the client.
    pub yiaddr: Ipv4Addr,
    /// The server of the boot file.
    pub siaddr: Ipv4Addr,
    /// The relay that passed it on.
    pub giaddr: Ipv4Addr,
    /// The `file` field without its zeros; at most 127 bytes are written.
    /// Empty where the field held options.
    pub file: Vec<u8>,
    /// All options but pad, end and overload.
    pub options: Options,
}

/// Why bytes are not a DHCP message that can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than the fixed part.
    #[error("{0} bytes are too short for a DHCP message")]
    Short(usize),
    /// No magic cookie.
    #[error("no DHCP cookie: the sender speaks plain BOOTP")]
    Cookie,
    /// Neither request nor reply.
    #[error("op {0} is neither request nor reply")]
    Op(u8),
    /// Not an Ethernet address.
    #[error("hardware type {htype} with {hlen} bytes is not Ethernet")]
    Hardware {
        /// Hardware type by IANA.
        htype: u8,
        /// Length of the address that it claims.
        hlen: u8,
    },
    /// No single card can have it.
    #[error("{0} cannot be the hardware address of one card")]
    Mac(Mac),
}

impl Packet {
    /// Reads a message. Unknown and broken options are no error.
    pub fn decode(bytes: &[u8]) -> Result<Packet, PacketError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(PacketError::Short(bytes.len()));
        };
        if header[236..] != COOKIE {
            return Err(PacketError::Cookie);
        }
        let op = match header[0] {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(PacketError::Op(other)),
        };
        let (htype, hlen) = (header[1], header[2]);
        if (htype, hlen) != (1, 6) {
            return Err(PacketError::Hardware { htype, hlen });
        }
        let mac = Mac(array(header, 28));
        if !mac.is_unicast() {
            return Err(PacketError::Mac(mac));
        }
        let (options, file) = options_and_file(header, rest);
        Ok(Packet {
            op,
            mac,
            hops: header[3],
            xid: u32::from_be_bytes(array(header, 4)),
            secs: u16::from_be_bytes(array(header, 8)),
            broadcast: header[10] & 0x80 != 0,
            ciaddr: array(header, 12).into(),
            yiaddr: array(header, 16).into(),
            siaddr: array(header, 20).into(),
            giaddr: array(header, 24).into(),
            file,
            options,
        })
    }

    /// Writes the message into at most `len_max` bytes (at least 300 are used).
    /// Options go out in their order, the relay's last (RFC 3046 §2.2); those
    /// that do not fit are left out, so the important ones come first.
    pub fn encode(&self, len_max: usize) -> Vec<u8> {
        let mut out = self.header();
        let len_max = len_max.max(LEN_MIN) - 1;
        let relay = self.options.get(code::RELAY_AGENT);
        let relay = relay.filter(|value| HEADER_LEN + written_len(value) <= len_max);
        let room = len_max - relay.map_or(0, written_len);
        for (code, value) in self.options.iter().filter(|(c, _)| *c != code::RELAY_AGENT) {
            if out.len() + written_len(value) <= room {
                write_option(&mut out, code, value);
            }
        }
        if let Some(value) = relay {
            write_option(&mut out, code::RELAY_AGENT, value);
        }
        out.push(END);
        out.resize(out.len().max(LEN_MIN), PAD);
        out
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let op = match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        };
        out.extend_from_slice(&[op, 1, 6, self.hops]);
        out.extend_from_slice(&self.xid.to_be_bytes());
        out.extend_from_slice(&self.secs.to_be_bytes());
        out.extend_from_slice(&[u8::from(self.broadcast) << 7, 0]);
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend_from_slice(&address.octets());
        }
        out.extend_from_slice(&self.mac.0);
        out.resize(108, 0);
        out.extend_from_slice(&self.file[..self.file.len().min(127)]);
        out.resize(236, 0);
        out.extend_from_slice(&COOKIE);
        out
    }
}

/// Copies `N` bytes from `at`; the header is longer than any such field.
fn array<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

fn options_and_file(header: &[u8; HEADER_LEN], rest: &[u8]) -> (Options, Vec<u8>) {
    let (sname, file) = (&header[44..108], &header[108..236]);
    let mut options = Options::default();
    options.read(rest);
    let overload = options.byte(code::OVERLOAD).unwrap_or(0);
    options.0.retain(|(code, _)| *code != code::OVERLOAD);
    let file_holds_options = overload & 1 != 0;
    if file_holds_options {
        options.read(file);
    }
    if overload & 2 != 0 {
        options.read(sname);
    }
    let name = file.split(|b| *b == 0).next().unwrap_or_default();
    let name = if file_holds_options { &[] } else { name };
    (options, name.to_vec())
}

/// Bytes that an option takes once split into pieces of 255.
fn written_len(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(255).max(1)
}

fn write_option(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.is_empty() {
        out.extend_from_slice(&[code, 0]);
    }
    for piece in value.chunks(255) {
        // A piece has at most 255 bytes.
        let len = u8::try_from(piece.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&[code, len]);
        out.extend_from_slice(piece);
    }
}
