//! A store on disks that are well, and on others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;
mod common;
mod damage;
mod faults;
mod garbage;
mod names;
mod round_trip;
