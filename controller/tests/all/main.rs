//! The controller through its library and its HTTP face, on a real database.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod answers;
mod api;
mod asked_builds;
mod attached;
mod builds;
mod common;
mod fleet;
mod identity;
mod limits;
mod log;
mod lost;
mod on_target;
mod policy;
mod policy_api;
mod restart;
mod runs;
mod sets;
mod silence;
mod steer;
mod workshop;
