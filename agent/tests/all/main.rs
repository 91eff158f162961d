//! The agent on disks that fail, from servers that stumble.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod answer;
mod capture;
mod install;
mod make;
mod power_cut;
mod script;
mod sets;
mod support;
mod whole;
