//! `completions` and `man`.

use std::fs;

use anyhow::Context as _;
use clap::CommandFactory;

use crate::args::Cli;
use crate::args::meta::{Completions, Man};
use crate::context::Context;

/// `ingot completions`.
pub fn completions(args: &Completions, context: &Context) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ingot", &mut script);
    context.out.line(String::from_utf8_lossy(&script).trim_end())
}

/// `ingot man`.
pub fn man(args: &Man, context: &Context) -> anyhow::Result<()> {
    let folder = args.out.display();
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {folder}"))?;
    clap_mangen::generate_to(Cli::command(), &args.out)
        .with_context(|| format!("cannot write manual pages into {folder}"))?;
    context.out.note(format!("wrote the manual pages into {folder}"));
    Ok(())
}
