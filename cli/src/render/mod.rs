//! From results to what people and scripts read.

pub mod error;
pub mod event;
pub mod human;
pub mod out;
pub mod progress;
pub mod sheet;
pub mod table;
pub mod words;

pub use out::{Out, Tone};
