//! The routes of uploads, request by request.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod garbage;
mod lab;
mod refused;
mod taken;
