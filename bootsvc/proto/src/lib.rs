//! Network boot as state machines: what to answer to DHCP, TFTP and iPXE.
//!
//! This crate does no I/O. It has no sockets, files, clock, randomness or
//! logging: bytes and the time go in, bytes and events come out, so that every
//! behaviour of a firmware can be a test. `bootsvc-server` is its shell.
//!
//! `now` is everywhere a [`Duration`](std::time::Duration) since the Unix
//! epoch that must not go backwards while the process lives.
//!
//! - [`dhcp`]: a full DHCPv4 server that knows machines by hardware address.
//! - [`tftp`]: a read-only TFTP server for many clients.
//! - [`choose()`]: which boot program a client gets.
//! - [`script`]: what iPXE is told.
//! - [`ra`]: the router advertisement that keeps iPXE from waiting for one.
//! - [`LoopWatch`]: notices machines that fetch their boot program over and over.

mod choose;
mod client;
pub mod dhcp;
mod mac;
pub mod ra;
pub mod script;
pub mod tftp;
mod watch;

pub use choose::{Boot, Intent, Offers, OffersError, Stage, choose};
pub use client::{Client, Platform, Program};
pub use mac::{Mac, MacError};
pub use watch::{LoopWatch, Looping};
