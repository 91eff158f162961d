//! The two binaries: `ingot` for the server and people, the static agent for machines.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell::{cargo, run as run_command};

/// The one target that the agent is built for; naming it keeps `crt-static` away
/// from procedural macros.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Options of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Args {
    /// Optimised, as for real use; else in the profile that tests use
    #[arg(long)]
    pub release: bool,
}

/// Where the binaries are.
pub struct Binaries {
    /// The command line and server.
    pub ingot: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
}

/// Builds both.
pub fn run(args: &Args) -> Result<Binaries> {
    Ok(Binaries { ingot: ingot(args)?, agent: agent(args)? })
}

/// Builds the command line and server.
pub fn ingot(args: &Args) -> Result<PathBuf> {
    run_command(cargo().args(["build", "--locked", "--profile", args.profile(), "-p", "cli"]))?;
    Ok(tests_rig::target_dir().join(args.folder()).join("ingot"))
}

/// Builds the static agent.
pub fn agent(args: &Args) -> Result<PathBuf> {
    let arguments = ["build", "--locked", "--config", "agent/static.toml", "-p", "agent"];
    let target = ["--target", AGENT_TARGET, "--profile", args.profile()];
    run_command(cargo().args(arguments).args(target))?;
    Ok(tests_rig::target_dir().join(AGENT_TARGET).join(args.folder()).join("ingot-agent"))
}

impl Args {
    fn profile(&self) -> &'static str {
        if self.release { "release" } else { "dev" }
    }

    fn folder(&self) -> &'static str {
        if self.release { "release" } else { "debug" }
    }
}
