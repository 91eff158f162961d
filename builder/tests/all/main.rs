//! Real builds, which need root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod image;
mod sandbox;
