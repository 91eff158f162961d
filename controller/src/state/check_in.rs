//! What a machine that asks is told, and what its run becomes by that.

use wire::admin::{MachineState, RunState, UnixMs};
use wire::{DeployOrder, Disk, HoldOrder, MachineId, MakeOrder, Order, RunId};

use super::{
    Changes, HOLD_RETRY_SECS, Make, Run, Target, gave_up, installed, standing, superseded,
};

/// A check-in, whatever is wanted.
pub(super) struct CheckIn<'a> {
    pub machine: &'a MachineId,
    pub boot: &'a str,
    pub disks: &'a [Disk],
    pub fresh: &'a RunId,
    /// Whether its current run is recorded as failed.
    pub failed_before: bool,
    pub now: UnixMs,
}

impl CheckIn<'_> {
    pub fn hold(&self, run: Option<Run>, state: MachineState, reason: &str) -> Changes {
        let run = run.map(|run| superseded(run, reason, self.now));
        let order = HoldOrder { reason: reason.to_owned(), retry_secs: HOLD_RETRY_SECS };
        Changes {
            machine: (state, Some(reason.to_owned())),
            closed: None,
            run,
            order: Some(Order::Hold(order)),
        }
    }

    /// What is made is in `make`, where the target is to be made.
    pub fn carry_out(&self, run: Option<Run>, target: &Target, make: Option<&Make>) -> Changes {
        match run {
            Some(run) if run.target == *target => self.proceed(run, make),
            Some(run) => {
                let reason = format!("rule {:?} now says {target}", target.rule);
                let closed = superseded(run, &reason, self.now);
                self.begin(Some(closed), target, make)
            }
            None => self.begin(None, target, make),
        }
    }

    /// The policy still wants what the current run is for.
    fn proceed(&self, run: Run, make: Option<&Make>) -> Changes {
        match run.state {
            // That an image cannot be made is on record for all machines, and
            // nobody would be told to make it: somebody wants it tried again.
            RunState::Failed if make.is_none() || !self.failed_before => {
                let reason = gave_up(&run);
                self.hold(Some(run), MachineState::Held, &reason)
            }
            RunState::Retrying => {
                let attempt = run.attempt.saturating_add(1);
                let boot = self.boot.to_owned();
                let run = Run { attempt, boot, ..run.became(RunState::Ordered, self.now) };
                self.order(None, run, make)
            }
            RunState::Superseded | RunState::Unknown => {
                let target = run.target.clone();
                self.begin(Some(run), &target, make)
            }
            // Every boot that finds its image is a run of its own in the record; and
            // what was made once is made again only because it is there no more.
            state if state.is_over() && (make.is_some() || run.boot != self.boot) => {
                let target = run.target.clone();
                self.begin(Some(run), &target, make)
            }
            _ => self.order(None, run, make),
        }
    }

    fn begin(&self, closed: Option<Run>, target: &Target, make: Option<&Make>) -> Changes {
        let closed = closed.map(|run| Run { ended: run.ended.or(Some(self.now)), ..run });
        let there = make.is_none() && installed(self.disks, target);
        let run = Run {
            id: self.fresh.clone(),
            machine: self.machine.clone(),
            target: target.clone(),
            state: if there { RunState::AlreadyInstalled } else { RunState::Ordered },
            attempt: 1,
            boot: self.boot.to_owned(),
            cause: None,
            created: self.now,
            changed: self.now,
            ended: None,
        };
        self.order(closed, run, make)
    }

    fn order(&self, closed: Option<Run>, run: Run, make: Option<&Make>) -> Changes {
        let order = match make {
            Some(make) => Order::Make(Box::new(to_make(&run, make))),
            None => Order::Deploy(to_deploy(&run)),
        };
        let machine = (standing(run.state), None);
        Changes { machine, closed, run: Some(run), order: Some(order) }
    }
}

fn to_deploy(run: &Run) -> DeployOrder {
    let Target { system, others, start, .. } = run.target.clone();
    DeployOrder { run: run.id.clone(), attempt: run.attempt, system, others, start }
}

fn to_make(run: &Run, make: &Make) -> MakeOrder {
    let Make { reason, making, .. } = make.clone();
    let base = run.target.system.clone();
    MakeOrder { run: run.id.clone(), attempt: run.attempt, base, reason, making }
}
