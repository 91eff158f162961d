//! What people run while developing: `cargo xtask help`.
//!
//! Knows the product by its command line only.

mod bench;
mod build;
mod demo;
mod shell;
mod size;
mod supervise;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Development tasks of ingot
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    #[command(flatten)]
    Task(Tasks),
}

#[derive(Subcommand)]
enum Tasks {
    /// Build an image, boot a bare VM over the network, install it, see it boot, twice
    Demo(demo::Args),
    /// Format, lints and all tests, real boots included; further words go to `cargo nextest run`
    Test(test::Args),
    /// Measure what ingot costs
    #[command(subcommand)]
    Bench(bench::Benches),
    /// Build `ingot` and the static agent
    Build(build::Args),
    /// Print the sizes of the two binaries; the agent has a budget
    Size,
}

fn main() -> Result<()> {
    let Task::Task(task) = Task::parse();
    match task {
        Tasks::Demo(args) => demo::run(&args),
        Tasks::Test(args) => test::run(&args),
        Tasks::Bench(bench) => bench::run(&bench),
        Tasks::Build(args) => build::run(&args).map(drop),
        Tasks::Size => size::run(),
    }
}
