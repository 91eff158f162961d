//! Machines, what happens to them, and who decides.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use wire::{MachineId, Reference, RunId};

/// See and steer the machines that have reported to the server
#[derive(Debug, Subcommand)]
pub enum Machine {
    Ls(MachineLs),
    Show(MachineShow),
    Label(MachineLabel),
    Hold(MachineHold),
    Release(MachineRelease),
    Retire(MachineRetire),
}

/// List the machines
///
/// One line per machine that ever booted into the agent: what it is, what it runs, and when it was
/// last heard of. Retired machines are listed with --all only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine ls\n  \
    ingot machine ls --on 'label.role == \"web\" and disk.size > 1 TB'\n  \
    ingot machine ls --server http://10.0.0.1:8460 --json")]
pub struct MachineLs {
    /// List the machines that this is true of: an expression over facts, as in a rule of the policy
    #[arg(long, value_name = "EXPRESSION")]
    pub on: Option<String>,
    /// List retired machines, too
    #[arg(long, conflicts_with = "on")]
    pub all: bool,
}

/// Show one machine with all its facts
///
/// Prints the facts that policy rules can match on, why others are not reported, what was answered
/// at its console, its disks and network cards, and its latest runs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine show m-4f6c20a1")]
pub struct MachineShow {
    /// Machine to show, as `ingot machine ls` names it
    pub machine: MachineId,
}

/// Give a machine labels that policy rules can match on
///
/// A label is a word of yours, such as role, site or rack; a rule reads it as label.NAME. It counts
/// from the machine's next check-in on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine label m-4f6c20a1 role=web rack=r12\n  \
    ingot machine label m-4f6c20a1 --remove rack")]
pub struct MachineLabel {
    /// Machine to label, as `ingot machine ls` names it
    pub machine: MachineId,
    /// Labels to set
    #[arg(value_name = "NAME=VALUE", value_parser = label, required_unless_present = "remove")]
    pub set: Vec<(String, String)>,
    /// Label to take away; may be given several times
    #[arg(long, value_name = "NAME")]
    pub remove: Vec<String>,
}

/// Keep a machine waiting, whatever the policy says
///
/// At its next check-in the machine waits in the agent, its disk untouched, and shows the reason on
/// its console. `ingot machine release` ends that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine hold m-4f6c20a1 --reason memory")]
pub struct MachineHold {
    /// Machine to hold, as `ingot machine ls` names it
    pub machine: MachineId,
    /// Why, for the person in front of it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Let a held machine go on
///
/// Ends a hold by an operator or for a doubtful identity, and forgets the failed attempts of the
/// machine's last run, so that it is tried again, and what was answered at its console, so that it
/// is asked again. An image for it whose build failed is built again when a machine asks for it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine release m-4f6c20a1")]
pub struct MachineRelease {
    /// Machine to release, as `ingot machine ls` names it
    pub machine: MachineId,
}

/// Take a machine out of service
///
/// For a machine that left the rack: what it was doing ends, its record and its runs stay to be
/// read, and `ingot machine ls` lists it with --all only. Nothing is recognised as it any more, so
/// its parts may serve in others; should the machine itself come back, it is a new one. Its disks
/// are not touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot machine retire m-4f6c20a1 --yes")]
pub struct MachineRetire {
    /// Machine to retire, as `ingot machine ls` names it
    pub machine: MachineId,
    /// Do it: there is no way back
    #[arg(long)]
    pub yes: bool,
}

/// Give machines an image, whatever the policy says
///
/// Chooses machines by an expression over facts, as in a rule of the policy, and shows them with
/// --plan; with --yes they get the image at their next check-in, which is when they boot, or when a
/// waiting one asks again. It counts for the machines that were chosen, until another deploy
/// changes it; with --by-policy the policy decides about them again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot deploy web:2 --on 'label.role == \"web\"' --plan\n  \
    ingot deploy web:2 --on 'label.role == \"web\"' --yes\n  \
    ingot deploy --by-policy --on 'label.role == \"web\"' --yes")]
pub struct Deploy {
    /// Image to deploy, as name[:tag][@digest]
    #[arg(value_name = "REF", required_unless_present = "by_policy")]
    pub reference: Option<Reference>,
    /// Which machines
    #[arg(long, value_name = "EXPRESSION")]
    pub on: String,
    /// How the image is started
    #[arg(long, value_name = "HOW", value_enum, default_value = "kexec")]
    pub start: DeployStart,
    /// Serial number of the disk that it goes to, where a machine has several
    #[arg(long, value_name = "SERIAL")]
    pub disk: Option<String>,
    /// Let the policy decide about these machines again
    #[arg(long, conflicts_with_all = ["reference", "disk"])]
    pub by_policy: bool,
    /// Show which machines these are, and what they have; change nothing
    #[arg(long, conflicts_with = "yes")]
    pub plan: bool,
    /// Do it
    #[arg(long)]
    pub yes: bool,
}

/// How an image is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeployStart {
    /// Past the firmware, from the loader
    Kexec,
    /// By the firmware, from the disk
    Reboot,
    /// Not at all: installed, and switched off
    PowerOff,
}

/// Parts `name=value`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as role=web".to_owned()),
    }
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

/// Check, explain and change the policy
#[derive(Debug, Subcommand)]
pub enum Policy {
    Check(PolicyCheck),
    Why(PolicyWhy),
    DryRun(PolicyDryRun),
    Diff(PolicyDiff),
    Show(PolicyShow),
    Apply(PolicyApply),
}

/// Print the policy that is in force
///
/// Prints the text of the policy file as the server uses it: where the file was changed into
/// something wrong, the text before that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot policy show > policy.toml\n  \
    ingot policy show --json | jq -r .digest")]
pub struct PolicyShow {}

/// Put a policy in force
///
/// Checks the policy in a file as the server would, its recipes too, and shows with --plan for which
/// machines it would change something; with --yes it takes the place of the server's policy file,
/// at once. Machines get what it says from their next check-in on. Where somebody else changed the
/// policy meanwhile, nothing is written.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot policy apply policy.toml --plan\n  \
    ingot policy apply policy.toml --yes")]
pub struct PolicyApply {
    /// Policy (TOML)
    pub file: PathBuf,
    /// Show for which machines something would change; change nothing
    #[arg(long, conflicts_with = "yes")]
    pub plan: bool,
    /// Do it
    #[arg(long)]
    pub yes: bool,
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

/// Show what a policy would say of the machines
///
/// Holds the policy in a file against every machine on record and compares with the policy in
/// force: which machines another rule would decide about, or the same rule differently. Nothing
/// changes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot policy dry-run policy.toml")]
pub struct PolicyDryRun {
    /// Policy (TOML)
    pub file: PathBuf,
    /// List machines for which nothing would change, too
    #[arg(long)]
    pub all: bool,
}

/// Show for which machines two policies differ
///
/// As dry-run, but compares two files: the policy in force counts for nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot policy diff policy.toml policy-new.toml")]
pub struct PolicyDiff {
    /// Policy to compare with (TOML)
    pub old: PathBuf,
    /// Policy (TOML)
    pub new: PathBuf,
    /// List machines for which they say the same, too
    #[arg(long)]
    pub all: bool,
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
