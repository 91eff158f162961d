//! The boot servers in network namespaces, asked by real clients. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boot_fields;
mod files;
mod leases;
mod relay;
mod support;
