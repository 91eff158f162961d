//! The boot protocols on real and on hostile messages.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod any_bytes;
mod dhcp;
mod quirks;
mod relay;
mod support;
mod tftp;
