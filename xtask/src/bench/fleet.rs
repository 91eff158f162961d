//! A fleet that is switched on at once, against a real server over loopback.

mod crowd;
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::supervise::{is_child, supervise};
use crowd::{Crowd, Times};
use server::Server;

/// How long 99 of 100 machines may wait for their answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How much memory the server may ever have taken.
const MEMORY_LIMIT: u64 = 512 << 20;
/// Machines that talk to the server at once while the records are made.
const MAKERS: u32 = 64;

/// Options of `cargo xtask bench fleet`.
#[derive(clap::Args)]
pub struct Args {
    /// Machines that the server knows before
    #[arg(long, default_value_t = 10_000)]
    records: u32,
    /// Machines that register
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    machines: u32,
    /// Within how many seconds
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Measure this binary instead of a release build of this tree
    #[arg(long, value_name = "FILE")]
    ingot: Option<PathBuf>,
}

/// Measures, and fails where a limit is not kept.
pub fn run(args: &Args) -> Result<()> {
    let cache = super::cache()?;
    if !is_child() {
        return supervise(&cache);
    }
    let ingot = super::ingot(args.ingot.as_deref())?;
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let server = Server::start(&ingot, folder.path())?;

    let begun = Instant::now();
    let known = Crowd { numbers: 0..args.records, url: server.url() }.by_turns(MAKERS)?;
    report(&format!("{} machines, {MAKERS} at a time", args.records), &known, begun.elapsed());

    let numbers = args.records..args.records + args.machines;
    let within = Duration::from_secs(args.seconds.into());
    let begun = Instant::now();
    let registered = Crowd { numbers: numbers.clone(), url: server.url() }.within(within)?;
    let took = begun.elapsed();
    report(&format!("{} new machines in {} s", args.machines, args.seconds), &registered, took);

    let begun = Instant::now();
    let again = Crowd { numbers, url: server.url() }.within(Duration::ZERO)?;
    report(&format!("{} of them again, all at once", args.machines), &again, begun.elapsed());

    let memory = server.peak_memory()?;
    println!("the server's memory at most: {} MiB", memory >> 20);
    let p99 = registered.of(99);
    let answers = p99 <= ANSWER_LIMIT;
    println!("99 of 100 answers within {ANSWER_LIMIT:?}: {p99:.1?}, {}", verdict(answers));
    let fits = memory <= MEMORY_LIMIT;
    println!("memory within {} MiB: {}", MEMORY_LIMIT >> 20, verdict(fits));
    ensure!(answers && fits, "a limit is not kept");
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

fn report(what: &str, times: &Times, took: Duration) {
    let rate = f64::from(u32::try_from(times.count()).unwrap_or(u32::MAX)) / took.as_secs_f64();
    println!(
        "{what}: p50 {:.1?}, p99 {:.1?}, max {:.1?}, {rate:.0} per second",
        times.of(50),
        times.of(99),
        times.of(100)
    );
}
