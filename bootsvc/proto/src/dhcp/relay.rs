//! What relays and switches say of a client whose message they pass on: option
//! 82 (RFC 3046). The form is in `docs/boot.md`.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::packet::code;
use super::request::Request;

/// Longest option 82 that is read, in bytes. Whoever adds it adds one piece,
/// which has 255 at most.
pub const RELAY_INFO_LEN_MAX: usize = 1024;

/// Most bytes of one id: its length is one byte.
pub const RELAY_ID_LEN_MAX: usize = 255;

const CIRCUIT_ID: u8 = 1;
const REMOTE_ID: u8 = 2;
const LINK_SELECTION: u8 = 5;
const SUBSCRIBER_ID: u8 = 6;

/// What option 82 says, as far as it is used here. Of what it says twice the
/// first counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayInfo {
    /// The port that the client is on.
    pub circuit_id: Option<RelayId>,
    /// Who says so, or who the client is to it.
    pub remote_id: Option<RelayId>,
    /// An address of the client's network, where the relay's own is of another
    /// (RFC 3527).
    pub link: Option<Ipv4Addr>,
    /// Whom the port belongs to, whichever that is (RFC 3993).
    pub subscriber_id: Option<RelayId>,
}

impl RelayInfo {
    /// Reads the bytes of option 82. What makes no sense is passed over, what
    /// is cut off at the end is ignored.
    pub fn decode(mut bytes: &[u8]) -> RelayInfo {
        let mut info = RelayInfo::default();
        if bytes.len() > RELAY_INFO_LEN_MAX {
            return info;
        }
        while let [code, len, rest @ ..] = bytes {
            let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
            info.take(*code, value);
            bytes = rest;
        }
        info
    }

    fn take(&mut self, code: u8, value: &[u8]) {
        match code {
            CIRCUIT_ID => keep(&mut self.circuit_id, RelayId::new(value)),
            REMOTE_ID => keep(&mut self.remote_id, RelayId::new(value)),
            SUBSCRIBER_ID => keep(&mut self.subscriber_id, RelayId::new(value)),
            LINK_SELECTION => {
                keep(&mut self.link, <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from));
            }
            _ => {}
        }
    }
}

fn keep<T>(place: &mut Option<T>, value: Option<T>) {
    if place.is_none() {
        *place = value;
    }
}

/// The name that a relay has for something: never empty, and as long as
/// [`RELAY_ID_LEN_MAX`]. Every maker has a form of its own, some text, some not.
///
/// Shown, printable ASCII is text, and all else `0x` and hex digits; text that
/// begins with `0x` is, too, so that two ids are never shown alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayId(Vec<u8>);

impl RelayId {
    /// An id of these bytes, unless there are none, or too many.
    pub fn new(bytes: &[u8]) -> Option<RelayId> {
        (1..=RELAY_ID_LEN_MAX).contains(&bytes.len()).then(|| RelayId(bytes.to_vec()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn as_text(&self) -> Option<&str> {
        let is_printable = |byte: &u8| (b' '..=b'~').contains(byte);
        let text = std::str::from_utf8(&self.0).ok()?;
        (self.0.iter().all(is_printable) && !text.starts_with("0x")).then_some(text)
    }
}

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.as_text() {
            return f.write_str(text);
        }
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where in the network a client is that was given an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The network that its address is of.
    pub subnet: Ipv4Net,
    /// The relay that its request came through.
    pub relay: Option<Ipv4Addr>,
    /// What was said of it on the way. A switch may do so without being a relay.
    pub info: RelayInfo,
}

impl Attachment {
    /// As `request` shows it. One by which a client renews its lease goes past
    /// all relays, and what it shows is the client's own word.
    pub(super) fn of(request: &Request, subnet: Ipv4Net) -> Option<Attachment> {
        let relay = request.relay();
        let info = request.relay_info();
        let renews = !request.packet.ciaddr.is_unspecified();
        (!renews || relay.is_some()).then_some(Attachment { subnet, relay, info })
    }
}

impl Request {
    /// The relay that it came through.
    pub(super) fn relay(&self) -> Option<Ipv4Addr> {
        Some(self.packet.giaddr).filter(|relay| !relay.is_unspecified())
    }

    /// What was said of its sender on the way.
    pub(super) fn relay_info(&self) -> RelayInfo {
        self.packet.options.get(code::RELAY_AGENT).map(RelayInfo::decode).unwrap_or_default()
    }
}
