//! Builds a recipe and prints where its disk is: `build RECIPE CACHE`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use builder::{Event, Options, Recipe};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let recipe = args.next().context("usage: build RECIPE CACHE")?;
    let cache = args.next().context("usage: build RECIPE CACHE")?;
    let recipe = Recipe::load(Path::new(&recipe))?;
    let options = Options::new(PathBuf::from(cache));
    let image = builder::build(&recipe, &options, &|event| match event {
        Event::Started { stage } => println!("{stage}"),
        Event::Log { line, .. } => println!("    {line}"),
        Event::Ended { stage, outcome, elapsed } => {
            println!("{stage}: {outcome:?} after {:.1} s", elapsed.as_secs_f64());
        }
    })?;
    println!("{image:#?}");
    Ok(())
}
