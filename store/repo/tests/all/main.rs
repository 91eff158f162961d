//! A store on disks that are well, and on others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod damage;
mod faults;
mod garbage;
mod names;
mod partition;
mod qcow2;
mod ranges;
mod round_trip;
