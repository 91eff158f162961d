//! All tests, cheapest first.

use anyhow::Result;

use crate::build;
use crate::shell::{cargo, run as run_command};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Skip format and lints
    #[arg(long)]
    no_lint: bool,
    /// For `cargo nextest run`, for example `-p builder` or `-E 'test(hold)'`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

/// Runs them.
pub fn run(args: &Args) -> Result<()> {
    if !args.no_lint {
        run_command(cargo().args(["fmt", "--all", "--check"]))?;
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        run_command(cargo().args(clippy))?;
        // Nothing is linked: that takes neither libFuzzer nor a compiler for its C++.
        let fuzz = ["check", "--locked", "--manifest-path", "tests/fuzz/Cargo.toml"];
        run_command(cargo().args(fuzz).env("CUSTOM_LIBFUZZER_PATH", "none/libfuzzer.a"))?;
    }
    let everything = args.nextest.is_empty();
    let profile = build::Args { release: false };
    if everything {
        // `ingot` itself is built for the tests of the command line, in the
        // features of the whole workspace; asking for it alone would build
        // every dependency twice.
        build::agent(&profile)?;
        run_command(cargo().args(["nextest", "run", "--locked", "--workspace"]))?;
    } else {
        build::run(&profile)?;
        run_command(cargo().args(["nextest", "run", "--locked"]).args(&args.nextest))?;
    }
    // nextest does not run documentation examples.
    if everything {
        run_command(cargo().args(["test", "--locked", "--quiet", "--workspace", "--doc"]))?;
    }
    Ok(())
}
