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
    let (profile, folder) = if args.release { ("release", "release") } else { ("dev", "debug") };
    run_command(cargo().args(["build", "--locked", "--profile", profile, "-p", "cli"]))?;
    let agent = ["build", "--locked", "--config", "agent/static.toml", "--profile", profile];
    run_command(cargo().args(agent).args(["-p", "agent", "--target", AGENT_TARGET]))?;
    let target = tests_rig::target_dir();
    Ok(Binaries {
        ingot: target.join(folder).join("ingot"),
        agent: target.join(AGENT_TARGET).join(folder).join("ingot-agent"),
    })
}
