//! A message from a client, checked for what every answer needs.

use std::net::Ipv4Addr;

use super::packet::{MessageKind, Op, Packet, PacketError, code};
use crate::Client;

/// A DHCP message from a client or a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it wants; `None` is plain BOOTP or an unknown number.
    pub kind: Option<MessageKind>,
    /// Who sent it.
    pub client: Client,
    /// The message.
    pub packet: Packet,
}

impl Request {
    /// Reads a datagram that came to the server port. `Ok(None)` is a message
    /// of another server.
    pub fn decode(datagram: &[u8]) -> Result<Option<Request>, PacketError> {
        let packet = Packet::decode(datagram)?;
        if packet.op == Op::Reply {
            return Ok(None);
        }
        let kind = packet.options.byte(code::MESSAGE_TYPE).and_then(MessageKind::from_u8);
        let client = Client::from_options(packet.mac, &packet.options);
        Ok(Some(Request { kind, client, packet }))
    }

    /// The address that it wants or has.
    pub(super) fn wanted(&self) -> Option<Ipv4Addr> {
        let requested = self.packet.options.address(code::REQUESTED_ADDRESS);
        requested.or(Some(self.packet.ciaddr)).filter(|address| !address.is_unspecified())
    }

    /// The server that it speaks to.
    pub(super) fn server(&self) -> Option<Ipv4Addr> {
        self.packet.options.address(code::SERVER_ID)
    }
}
