//! Machines, what happens to them, and who decides.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wire::{MachineId, RunId};

/// Look at the machines that have reported to the server
#[derive(Debug, Subcommand)]
pub enum Machine {
    Ls(MachineLs),
    Show(MachineShow),
}

/// List the machines
///
/// One line per machine that ever booted into the agent: what it is, what it runs, and when it was
/// last heard of.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine ls\n  \
    ingot machine ls --server http://10.0.0.1:8460 --json")]
pub struct MachineLs {}

/// Show one machine with all its facts
///
/// Prints the facts that policy rules can match on, its disks and network cards, and its latest
/// run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine show m-4f6c20a1")]
pub struct MachineShow {
    /// Machine to show, as `ingot machine ls` names it
    pub machine: MachineId,
}

/// Follow what is done to machines
#[derive(Debug, Subcommand)]
pub enum Run {
    Ls(RunLs),
    Show(RunShow),
    Logs(RunLogs),
}

/// List the runs, newest first
///
/// A run is one image going to one machine: recognised, planned, transferred, verified, sealed,
/// started.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot run ls\n  \
    ingot run ls --json | jq '.[] | select(.state == \"failed\")'")]
pub struct RunLs {}

/// Show one run, step by step
///
/// Prints each step with how it ended, how long it took, and the bytes that it moved.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot run show r-19")]
pub struct RunShow {
    /// Run to show, as `ingot run ls` names it
    pub run: RunId,
}

/// Print what a run reported
///
/// Prints every event that the agent reported, in order; the newest run's where none is named.
/// With --follow it stays and prints events as they arrive until the run has ended, and exits with
/// 1 when the run failed; a server that restarts in between is waited for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot run logs r-19\n  \
    ingot run logs --follow                    # the newest run, or the first to come\n  \
    ingot run logs r-19 --json | jq -r 'select(.kind.event == \"log\") | .kind.line'")]
pub struct RunLogs {
    /// Run to read, as `ingot run ls` names it [default: the newest]
    pub run: Option<RunId>,
    /// Stay and print events as they arrive, until the run has ended
    #[arg(long, short)]
    pub follow: bool,
}

/// Check and explain the policy
#[derive(Debug, Subcommand)]
pub enum Policy {
    Check(PolicyCheck),
    Why(PolicyWhy),
}

/// Check a policy file for mistakes
///
/// Reads the policy as the server would and names every mistake with its line. Nothing is asked of
/// a server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot policy check policy.toml")]
pub struct PolicyCheck {
    /// Policy (TOML)
    pub file: PathBuf,
}

/// Explain what the policy decides for a machine
///
/// Prints each rule in order with each of its conditions, what the machine reported for it, and
/// whether it held, down to the rule that decided.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot policy why m-4f6c20a1")]
pub struct PolicyWhy {
    /// Machine to explain, as `ingot machine ls` names it
    pub machine: MachineId,
}
