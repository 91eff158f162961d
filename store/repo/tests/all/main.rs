//! A store on disks that are well, and on others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod damage;
mod faults;
mod fetch;
mod filesystems;
mod garbage;
mod names;
mod repair;
mod round_trip;
