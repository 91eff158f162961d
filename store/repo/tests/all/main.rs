//! A store on disks that are well, and on others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;
mod common;
mod damage;
mod diff;
mod faults;
mod fetch;
mod files;
mod filesystems;
mod garbage;
mod merging;
mod names;
mod partition;
mod qcow2;
mod ranges;
mod repair;
mod round_trip;
mod sharing;
mod usage;
