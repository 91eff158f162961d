//! A store of many chunks, by a program beside the store's crate.

use anyhow::Result;

use crate::shell::{cargo, run as run_command};

/// Options of `cargo xtask bench index`.
#[derive(clap::Args)]
pub struct Args {
    /// How many chunks; ten million take 2 GB in the target folder while it runs
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    chunks: u64,
}

/// Builds the program and lets it print its figures.
pub fn run(args: &Args) -> Result<()> {
    let scratch = super::cache()?;
    let program = ["run", "--release", "--locked", "-p", "store-repo", "--example", "scale", "--"];
    run_command(cargo().args(program).arg(scratch).arg(args.chunks.to_string()))
}
