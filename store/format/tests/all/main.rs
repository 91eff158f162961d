//! The formats: golden files, and bytes of all kinds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod blocks;
mod derived;
mod envelope;
mod formats;
mod outline;
mod plan;
mod samples;
mod upload;
