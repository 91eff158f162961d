//! The agent: what runs on a machine that has booted over the network.
//!
//! It reads the hardware, tells the controller, and does what it is told:
//! wait, or bring an image onto a disk, prove it, and start it. Everything
//! that touches the machine goes through something a test can replace: a
//! [`target::Target`] for the disk, [`inventory::Roots`] for the kernel's file
//! systems, a [`store_remote::Timing`] for clock and chance.

pub mod agent;
pub mod ask;
pub mod boot;
pub mod choose;
pub mod config;
pub mod console;
pub mod controller;
pub mod deploy;
pub mod events;
pub mod install;
pub mod inventory;
pub mod kmsg;
pub mod make;
pub mod modules;
pub mod net;
mod part;
pub mod progress;
pub mod receipt;
pub mod report;
pub mod start;
mod sys;
pub mod target;
#[cfg(test)]
mod testing;
pub mod uevent;
