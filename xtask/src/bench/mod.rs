//! What ingot costs.

mod index;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Subcommand)]
pub enum Benches {
    /// A generated store of ten million chunks: opening, look-ups, removing garbage
    Index(index::Args),
}

/// Runs it.
pub fn run(bench: &Benches) -> Result<()> {
    match bench {
        Benches::Index(args) => index::run(args),
    }
}
