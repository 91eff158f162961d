//! The two built binaries.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tests_rig::target_dir;

/// Where `ingot` and the agent are.
#[derive(Debug, Clone)]
pub struct Product {
    /// The command line and server.
    pub ingot: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
}

impl Product {
    /// The binaries as `cargo xtask build` leaves them, built for tests.
    pub fn for_tests() -> Result<Product> {
        let target = target_dir();
        let product = Product {
            ingot: target.join("debug/ingot"),
            agent: target.join("x86_64-unknown-linux-gnu/debug/ingot-agent"),
        };
        for binary in [&product.ingot, &product.agent] {
            if !binary.is_file() {
                bail!("{} is missing: run `cargo xtask build`", binary.display());
            }
        }
        Ok(product)
    }

    /// `ingot` with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ingot);
        command.args(arguments);
        command
    }

    /// Runs `ingot` to its end and returns what it printed; fails unless it succeeds.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(arguments)
            .output()
            .with_context(|| format!("cannot start {}", self.ingot.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`ingot {}` failed ({}):\n{said}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
