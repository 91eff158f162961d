//! TFTP for reading (RFC 1350) with options (RFC 2347, 2348, 2349) and windows
//! (RFC 7440), from one port: the port is not changed for a transfer, so that
//! it works behind address translation.

mod packet;
mod server;
mod transfer;

pub use packet::{ErrorCode, Mode, Packet, PacketError, ReadRequest, clean_name};
pub use server::{Event, Limits, Server};

/// The port that requests come to.
pub const PORT: u16 = 69;
