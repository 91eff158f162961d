//! How machines and runs stand, changed here and nowhere else.
//!
//! [`reconcile`] takes what is recorded and what was reported, and says what is
//! to be recorded and answered. It does no I/O, and is idempotent: the same
//! report once more changes nothing and is answered the same, so a controller
//! may die at any moment, and agents may repeat themselves.

mod check_in;
mod installed;

use std::fmt;

use wire::admin::{MachineState, RunState, UnixMs};
use wire::{
    Configuration, Disk, ImageOrder, MachineId, Making, Order, Outcome, RunId, Start, Step,
};

use check_in::CheckIn;
use installed::installed;

/// Attempts of one run before its machine is held: a machine that cannot be
/// installed shall not write to its disk for ever.
pub const ATTEMPTS_MAX: u32 = 3;

/// How long an agent waits before it asks again, in seconds: soon enough that
/// a person who imported the missing image does not wonder.
pub const HOLD_RETRY_SECS: u32 = 15;

/// What the policy wants of a machine, its references resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These images on it.
    Deploy(Box<Target>),
    /// That it makes an image.
    Make(Box<Make>),
    /// That it waits, for this reason.
    Hold(String),
    /// That it is refused, for this reason.
    Fail(String),
}

/// Images for a machine, and the rule that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The rule.
    pub rule: String,
    /// The image that is started.
    pub system: ImageOrder,
    /// What else is installed, each on a disk of its own.
    pub others: Vec<ImageOrder>,
    /// How it is started.
    pub start: Start,
    /// What the machine makes of the image, where it is not there to be run.
    pub makes: Option<Configuration>,
}

/// An image that is to be made on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    /// Its base, and the rule that needs it. It says what is made.
    pub target: Target,
    /// Why, for the person at the machine.
    pub reason: String,
    /// How.
    pub making: Making,
}

impl Target {
    /// All images, the one that is started first.
    pub fn images(&self) -> impl Iterator<Item = &ImageOrder> {
        std::iter::once(&self.system).chain(&self.others)
    }
}

/// What the rule calls the images.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(configuration) = &self.makes {
            return configuration.reference().fmt(f);
        }
        self.system.reference.fmt(f)?;
        self.others.iter().try_for_each(|image| write!(f, ", {}", image.reference))
    }
}

/// One target on one machine, in numbered attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The machine.
    pub machine: MachineId,
    /// What it deploys.
    pub target: Target,
    /// How it stands.
    pub state: RunState,
    /// The current attempt, from 1.
    pub attempt: u32,
    /// The boot of the agent that was told of this attempt.
    pub boot: String,
    /// What went wrong last.
    pub cause: Option<String>,
    /// When it began.
    pub created: UnixMs,
    /// When it last changed.
    pub changed: UnixMs,
    /// When the agent had no more to do for it; later than its state says
    /// where the image was there and had only to be started.
    pub ended: Option<UnixMs>,
}

/// What is recorded of a machine, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// The machine.
    pub machine: &'a MachineId,
    /// Why an operator, or doubt about which machine this is, holds it.
    pub held: Option<&'a str>,
    /// Its current run.
    pub run: Option<&'a Run>,
}

/// What an agent reported.
#[derive(Debug, Clone, Copy)]
pub enum Report<'a> {
    /// It asks what to do.
    CheckIn {
        /// Its boot.
        boot: &'a str,
        /// The machine's disks, with their receipts.
        disks: &'a [Disk],
        /// What the policy wants.
        wanted: &'a Wanted,
        /// Name of the run, should one begin.
        fresh: &'a RunId,
    },
    /// A step of the current run began.
    Started {
        /// The attempt it belongs to.
        attempt: u32,
        /// Which.
        step: Step,
    },
    /// A step of the current run ended.
    Ended {
        /// The attempt it belongs to.
        attempt: u32,
        /// Which.
        step: Step,
        /// How.
        outcome: &'a Outcome,
    },
    /// The image that the current run makes is in the store.
    Made,
    /// Nothing, for so many milliseconds: as long as [`Run::patience_ms`].
    Silent(u64),
}

/// What is to be recorded and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// How the machine stands, and why where it is held or failed.
    pub machine: (MachineState, Option<String>),
    /// The run before, where it ends because another one takes its place.
    pub closed: Option<Run>,
    /// The current run.
    pub run: Option<Run>,
    /// The answer to a check-in.
    pub order: Option<Order>,
}

impl Changes {
    /// Whether the machine begins the run of this name with something that it does
    /// not have.
    pub fn begin(&self, fresh: &RunId) -> bool {
        let run = self.run.as_ref();
        run.is_some_and(|run| run.id == *fresh && run.state == RunState::Ordered)
    }
}

/// From what is recorded and what was reported to what is to be recorded and
/// answered. None where the report changes nothing.
pub fn reconcile(recorded: Recorded<'_>, report: Report<'_>, now: UnixMs) -> Option<Changes> {
    match report {
        Report::CheckIn { boot, disks, wanted, fresh } => {
            let run = recorded.run.cloned().map(|run| rebooted(run, boot, disks, now));
            let failed_before = recorded.run.is_some_and(|run| run.state == RunState::Failed);
            let machine = recorded.machine;
            let asked = CheckIn { machine, boot, disks, fresh, failed_before, now };
            Some(match (recorded.held, wanted) {
                (Some(reason), _) => asked.hold(run, MachineState::Held, reason),
                (None, Wanted::Hold(reason)) => asked.hold(run, MachineState::Held, reason),
                (None, Wanted::Fail(reason)) => asked.hold(run, MachineState::Failed, reason),
                (None, Wanted::Deploy(target)) => asked.carry_out(run, target, None),
                (None, Wanted::Make(make)) => asked.carry_out(run, &make.target, Some(make)),
            })
        }
        Report::Started { attempt, step } => {
            let run = recorded.run.filter(|run| run.attempt == attempt)?;
            stepped(run, started(run.state, step)?, None, now)
        }
        Report::Ended { attempt, step, outcome } => {
            let run = recorded.run.filter(|run| run.attempt == attempt)?;
            match outcome {
                Outcome::Failed { cause } => match failed(run, cause) {
                    Some(state) => stepped(run, state, Some(cause), now),
                    None => None,
                },
                Outcome::Done => stepped(run, done(run, step)?, None, now),
                Outcome::Skipped { .. } => stepped(run, skipped(run, step)?, None, now),
                Outcome::Unknown => None,
            }
        }
        Report::Made => {
            let run = recorded.run.filter(|run| run.target.makes.is_some())?;
            (!run.state.is_over()).then(|| made(run, now))
        }
        Report::Silent(ms) => {
            let run = recorded.run.filter(|run| ms >= run.patience_ms())?;
            let waits = run.state.is_over() || run.state == RunState::Retrying;
            let cause = silent(run, ms);
            let next = after_failure(run.attempt);
            (!waits).then(|| stepped(run, next, Some(&cause), now)).flatten()
        }
    }
}

/// How long nothing may be heard of a machine that installs: it tells how far it is
/// every few seconds, so it is off, or its network is.
pub const SILENCE_MS_MAX: u64 = 60 * 60 * 1000;
/// The longest time of a script, of which nothing may be heard meanwhile.
const SCRIPT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

impl Run {
    /// How long nothing may be heard of its machine, in milliseconds.
    pub fn patience_ms(&self) -> u64 {
        match self.target.makes {
            Some(_) => SCRIPT_MS_MAX + SILENCE_MS_MAX,
            None => SILENCE_MS_MAX,
        }
    }

    fn became(self, state: RunState, now: UnixMs) -> Run {
        let ended = match state {
            RunState::Succeeded | RunState::Failed | RunState::Superseded => {
                self.ended.or(Some(now))
            }
            RunState::AlreadyInstalled => self.ended,
            _ => None,
        };
        Run { state, changed: now, ended, ..self }
    }
}

/// The machine of this run was not heard of for too long, so that others need not
/// wait for it any more.
pub fn gone(run: &Run, reason: String, now: UnixMs) -> Changes {
    let cause = Some(reason.clone());
    let run = Run { cause, ..run.clone().became(RunState::Superseded, now) };
    let machine = (MachineState::Held, Some(reason));
    Changes { machine, closed: None, run: Some(run), order: None }
}

fn made(run: &Run, now: UnixMs) -> Changes {
    let reason = format!("it made {}: it is told what to do when it checks in", run.target);
    let run = Run { cause: None, ..run.clone().became(RunState::Succeeded, now) };
    let machine = (MachineState::Held, Some(reason));
    Changes { machine, closed: None, run: Some(run), order: None }
}

/// A run whose machine has started anew: either it was finished and the last
/// events were lost, or this attempt was.
fn rebooted(run: Run, boot: &str, disks: &[Disk], now: UnixMs) -> Run {
    if run.state.is_over() || run.state == RunState::Retrying || run.boot == boot {
        return run;
    }
    if run.target.makes.is_none() && installed(disks, &run.target) {
        return Run { cause: None, ..run.became(RunState::Succeeded, now) };
    }
    let cause = format!("the machine started anew while {}", doing(run.state));
    let state = after_failure(run.attempt);
    Run { cause: Some(cause), ..run.became(state, now) }
}

/// The state of a run in which a step began; none where that is no news.
fn started(state: RunState, step: Step) -> Option<RunState> {
    use RunState::{AlreadyInstalled, Failed, Succeeded, Superseded};
    let next = match step {
        Step::Plan => RunState::Planning,
        Step::Transfer => RunState::Transferring,
        Step::Verify => RunState::Verifying,
        Step::Seal => RunState::Sealing,
        Step::Start => RunState::Starting,
        Step::Script => RunState::Scripting,
        Step::Capture => RunState::Capturing,
        Step::Inventory | Step::Network | Step::CheckIn | Step::Unknown => return None,
    };
    match (state, step) {
        (Succeeded | Failed | Superseded, _) => None,
        // Looking at the disk and starting what is there is what it is about.
        (AlreadyInstalled, Step::Plan | Step::Start) => None,
        _ => Some(next),
    }
}

fn done(run: &Run, step: Step) -> Option<RunState> {
    match (step, run.state) {
        (Step::Start, RunState::AlreadyInstalled) if run.ended.is_none() => Some(run.state),
        // An image is made once the store has it, and the agent does not know that.
        (Step::Start, state) if !state.is_over() && run.target.makes.is_none() => {
            Some(RunState::Succeeded)
        }
        _ => None,
    }
}

/// An agent that skips the transfer found the image on the disk.
fn skipped(run: &Run, step: Step) -> Option<RunState> {
    let there = step == Step::Transfer && run.target.makes.is_none();
    (there && !run.state.is_over()).then_some(RunState::AlreadyInstalled)
}

/// The state of a run of which a step failed. Also a start that was told done
/// before it was tried can fail yet.
fn failed(run: &Run, cause: &str) -> Option<RunState> {
    let news = run.cause.as_deref() != Some(cause) || run.state != after_failure(run.attempt);
    let open = match run.target.makes {
        Some(_) => !run.state.is_over(),
        None => !matches!(run.state, RunState::Failed | RunState::Superseded),
    };
    (news && open).then(|| after_failure(run.attempt))
}

fn after_failure(attempt: u32) -> RunState {
    if attempt < ATTEMPTS_MAX { RunState::Retrying } else { RunState::Failed }
}

fn stepped(run: &Run, state: RunState, cause: Option<&str>, now: UnixMs) -> Option<Changes> {
    let found = run.state == RunState::AlreadyInstalled;
    if state == run.state && cause.is_none() && !found {
        return None;
    }
    let cause = cause.map(str::to_owned).or_else(|| run.cause.clone());
    let ended = (found && state == run.state).then_some(now);
    let run = run.clone().became(state, now);
    let run = Run { cause, ended: run.ended.or(ended), ..run };
    let reason = (state == RunState::Failed).then(|| gave_up(&run));
    Some(Changes { machine: (standing(state), reason), closed: None, run: Some(run), order: None })
}

/// A run that is not wanted any more; one that is over stays as it is.
pub(crate) fn superseded(run: Run, reason: &str, now: UnixMs) -> Run {
    if run.state.is_over() {
        return run;
    }
    let cause = Some(format!("{} was no longer wanted: {reason}", run.target));
    Run { cause, ..run.became(RunState::Superseded, now) }
}

/// How a machine stands whose current run stands so.
pub fn standing(run: RunState) -> MachineState {
    match run {
        RunState::Succeeded | RunState::AlreadyInstalled => MachineState::Installed,
        RunState::Failed | RunState::Superseded => MachineState::Held,
        _ => MachineState::Deploying,
    }
}

pub(crate) fn gave_up(run: &Run) -> String {
    format!(
        "run {} failed {} times, the last time because: {}. Remove the cause, then \
         `ingot machine release {}`",
        run.id,
        run.attempt,
        run.cause.as_deref().unwrap_or("the agent did not say why"),
        run.machine,
    )
}

fn silent(run: &Run, ms: u64) -> String {
    format!(
        "nothing was heard of the machine for {} minutes while {}: is it switched on, and does it \
         reach this server? It is tried again once it checks in",
        ms / 60_000,
        doing(run.state)
    )
}

fn doing(state: RunState) -> &'static str {
    match state {
        RunState::Ordered => "it had its order and had not begun",
        RunState::Planning => "planning",
        RunState::Transferring => "transferring",
        RunState::Verifying => "verifying",
        RunState::Sealing => "sealing",
        RunState::Scripting => "running the recipe's script",
        RunState::Capturing => "reading and sending what the script made",
        RunState::Starting => "starting the installed OS, and its disk has no receipt of it",
        _ => "busy",
    }
}

#[cfg(test)]
mod tests;
