//! What ingot costs beside its peers, on the same images in the same run.

mod files;
mod fleet;
mod images;
mod index;
mod measure;
mod store;
mod table;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use tests_rig::target_dir;

use crate::build;
use crate::supervise::{is_child, supervise};
use files::Files;
use images::Images;
use measure::Site;
use store::Bench;
use table::Table;

/// What can be measured.
#[derive(Subcommand)]
pub enum Benches {
    /// Three related images in ingot's store and in those of casync, restic, borg, zstd and bita
    Store(Args),
    /// A generated store of ten million chunks: opening, look-ups, removing garbage
    Index(index::Args),
    /// A thousand machines that register within ten seconds at a server that knows ten thousand
    Fleet(fleet::Args),
}

/// Options of `cargo xtask bench store`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these figures
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often times are taken; the table has their medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Take base.raw, rebuilt.raw, in-place.raw and one-more.raw from this folder instead of making them
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Measure this binary instead of a release build of this tree
    #[arg(long, value_name = "FILE")]
    ingot: Option<PathBuf>,
    /// Write the table there too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bytes that the stores have for the images
    Sizes,
    /// Requests of an installation and an update
    Requests,
    /// Bytes written over a disk that has a related image
    Writes,
    /// How long storing and restoring take
    Times,
}

/// Runs it, and leaves nothing but its cache however it ends.
pub fn run(bench: &Benches) -> Result<()> {
    match bench {
        Benches::Store(args) => store(args),
        Benches::Index(args) => index::run(args),
        Benches::Fleet(args) => fleet::run(args),
    }
}

/// Where measurements keep what they need, and work.
fn cache() -> Result<PathBuf> {
    let cache = target_dir().join("bench");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}

/// What is measured: the binary that was named, or a release build of this tree.
fn ingot(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(file) => file.canonicalize().with_context(|| format!("no {}", file.display())),
        None => build::ingot(&build::Args { release: true }),
    }
}

fn store(args: &Args) -> Result<()> {
    let cache = cache()?;
    if !is_child() {
        return supervise(&cache);
    }
    let ingot = ingot(args.ingot.as_deref())?;
    let images = match &args.images {
        Some(folder) => Images::taken(folder)?,
        None => Images::made(&cache)?,
    };
    let site = Site::new(ingot, tools::install_bita(&cache)?)?;
    let table = measure(args, &Bench { site, images })?;
    println!();
    table.print();
    if let Some(file) = &args.json {
        std::fs::write(file, table.json())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn measure(args: &Args, bench: &Bench) -> Result<Table> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut table = Table::default();
    if wanted(Part::Sizes) {
        let mut files = Files::default();
        bench.stored(&mut files, &mut table)?;
        bench.new_bytes(&mut files, &mut table)?;
    }
    if wanted(Part::Requests) {
        bench.requests(&mut table)?;
    }
    if wanted(Part::Times) {
        bench.times(args.rounds, &mut table)?;
    }
    if wanted(Part::Writes) {
        bench.writes(&mut table)?;
    }
    bench.memory(&mut table);
    Ok(table)
}
