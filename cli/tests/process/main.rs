//! The real binary, as people and scripts meet it: what it prints, what it
//! ends with, what it leaves behind. No network but loopback, no root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod export;
mod inspect;
mod manners;
mod policy;
mod push;
mod serve;
mod store;
mod support;
