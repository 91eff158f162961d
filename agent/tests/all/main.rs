//! The agent on disks that fail, from servers that stumble.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod install;
mod power_cut;
mod sets;
mod support;
mod whole;
