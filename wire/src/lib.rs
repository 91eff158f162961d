//! What travels between agent, controller, store and command line.
//!
//! Plain data with a version and a text form; no I/O, no clock, no hashing.
//! Every enum that crosses a version boundary ends in an `Unknown` arm, so an
//! older reader survives a newer writer.

pub mod admin;
pub mod api;
mod chain;
mod configuration;
mod digest;
mod event;
pub mod expr;
mod fact;
mod id;
mod inventory;
mod order;
pub mod range;
mod receipt;
mod reference;
pub mod upload;

pub use chain::chain;
pub use configuration::Configuration;
pub use digest::{Digest, DigestError};
pub use event::{Event, EventKind, Outcome, Step};
pub use fact::{FactValue, Facts};
pub use id::{IdError, MachineId, RunId};
pub use inventory::{
    Bus, Cpu, Device, Disk, Firmware, FirmwareKind, Inventory, Memory, Neighbour, Network, Nic, Os,
    Partition, System, Tpm,
};
pub use order::{
    AskOrder, DeployOrder, DiskChoice, HoldOrder, ImageOrder, MakeOrder, Making, Order, Start,
};
pub use receipt::{Receipt, ReceiptState};
pub use reference::{Reference, ReferenceError};
