//! Network boot on real sockets: DHCP, TFTP, HTTP and router advertisements on
//! one interface.
//!
//! A shell around `bootsvc-proto`, which decides every answer: this crate only
//! moves datagrams, keeps leases, serves files and logs.
//!
//! [`BootServer::start`] answers DHCP and TFTP by itself; [`BootServer::router`]
//! is for the caller's HTTP server. Which machine boots what is asked of
//! [`Decide`], where machines are is told to a [`Witness`], what there is to boot
//! is given as [`Artifacts`].

mod artifacts;
mod counters;
mod decide;
mod dhcp;
mod http;
mod leases;
mod net;
mod ra;
mod server;
mod shared;
mod tftp;
mod witness;

pub use artifacts::{Artifact, Artifacts};
pub use bootsvc_proto::dhcp::{
    Attachment, Config as DhcpConfig, ConfigError, Lease, RelayId, RelayInfo, Scope,
};
pub use bootsvc_proto::{Client, Intent, Mac, MacError, Offers, Platform, Program};
pub use counters::{Counters, Counts, DhcpCounts, FileCounts};
pub use decide::{Decide, Decision};
pub use leases::LeaseError;
pub use net::SocketError;
pub use server::{BootServer, Config, StartError};
pub use witness::Witness;
