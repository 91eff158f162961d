//! DHCPv4 (RFC 2131, 2132) for networks whose only DHCP server this is.
//!
//! A datagram becomes a [`Request`]; the shell asks its policy about
//! [`Request::client`] and hands both to [`Server::handle`], which says what to
//! record and what to send.

mod config;
mod leases;
mod packet;
mod relay;
mod reply;
mod request;
mod server;

pub use config::{Config, ConfigError, Scope};
pub use leases::{Change, Lease};
pub use packet::{MessageKind, Op, Options, Packet, PacketError, code};
pub use relay::{Attachment, RELAY_ID_LEN_MAX, RELAY_INFO_LEN_MAX, RelayId, RelayInfo};
pub use reply::Reply;
pub use request::Request;
pub use server::{Answer, Outcome, Server, Silence};

/// The port of servers and relays.
pub const SERVER_PORT: u16 = 67;

/// The port of clients.
pub const CLIENT_PORT: u16 = 68;
