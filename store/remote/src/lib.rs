//! Client of a store's native HTTP interface: images by digest, chunks by ranges of packs,
//! and images that are sent to it.
//!
//! Synchronous. Nothing is handed on before it proved to be what was asked
//! for: an envelope by its digest, a table by its envelope, a chunk by its id.
//! Time-outs are for silence, not for a whole transfer; time and randomness
//! come from a [`Timing`].

#![forbid(unsafe_code)]

mod client;
mod error;
mod pull;
mod push;
mod retry;

pub use client::{Client, Image, Options};
pub use error::{FetchError, PullError, PushError};
pub use push::{PushProgress, Pushed};
pub use retry::{Backoff, SystemTiming, Timing};
