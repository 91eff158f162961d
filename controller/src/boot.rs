//! What a machine that asks the network is sent to: the loader, or its disk.
//!
//! A pure function of what is recorded and what the policy wants. A held
//! machine boots the loader too and waits there, where a person sees why; and
//! so does an unknown one, which is then asked what it is. Nothing is ever
//! wiped by this decision: only a rule that names an image can lead to that.

use std::fmt;

use wire::admin::RunState;
use wire::{MachineId, Start};

use crate::state::{Run, Wanted};

/// What a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDecision {
    /// The loader, over the network.
    Loader,
    /// What is on its disk.
    Disk,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Asking<'a> {
    /// No machine with that hardware address.
    Unknown,
    /// Several, or one that says it is another.
    Doubtful(&'a [MachineId]),
    /// This one.
    Known {
        /// Why an operator, or doubt about which machine this is, holds it.
        held: Option<&'a str>,
        /// Its current run.
        run: Option<&'a Run>,
        /// What the policy wants of it.
        wanted: &'a Wanted,
    },
}

/// What a machine boots, and why, in words for the log.
pub fn decide(asking: Asking<'_>) -> (BootDecision, String) {
    let loader = |why: &str| (BootDecision::Loader, why.to_owned());
    let (held, run, wanted) = match asking {
        Asking::Unknown => return loader("unknown: it has to tell what it is"),
        Asking::Doubtful(machines) => {
            let ids: Vec<_> = machines.iter().map(MachineId::as_str).collect();
            return (BootDecision::Loader, format!("it may be any of {}", ids.join(", ")));
        }
        Asking::Known { held, run, wanted } => (held, run, wanted),
    };
    if held.is_some() {
        return loader("held: it waits in the loader");
    }
    let target = match wanted {
        Wanted::Deploy(target) => target,
        Wanted::Make(_) => return loader("an image is to be made on it"),
        Wanted::Hold(_) | Wanted::Fail(_) => {
            return loader("the policy names no image: it waits in the loader");
        }
    };
    let Some(run) = run.filter(|run| run.target == **target) else {
        return loader("the policy names an image that it was not given yet");
    };
    // Sealed is enough: the machine may have restarted before its last event
    // arrived, and what seals is what makes the disk start.
    // A receipt that was only reported is not: the agent has yet to compare it.
    let sealed = match run.state {
        RunState::Starting | RunState::Succeeded => true,
        RunState::AlreadyInstalled => run.ended.is_some(),
        _ => false,
    };
    match (sealed, target.start) {
        (true, Start::Reboot | Start::PowerOff | Start::Unknown) => {
            (BootDecision::Disk, format!("run {} installed it to start from its disk", run.id))
        }
        (true, Start::Kexec) => loader("the agent starts what is installed"),
        (false, _) => loader("its run is not over"),
    }
}

impl fmt::Display for BootDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootDecision::Loader => "loader",
            BootDecision::Disk => "disk",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Target;
    use wire::{Digest, ImageOrder};

    fn image(number: u8) -> ImageOrder {
        let disk = wire::DiskChoice::default();
        let reference = "web:1".parse().unwrap();
        ImageOrder { image: Digest([number; 32]), reference, disk }
    }

    fn target(start: Start) -> Target {
        Target { rule: "all".into(), system: image(1), others: Vec::new(), start, makes: None }
    }

    fn run(state: RunState, start: Start) -> Run {
        Run {
            id: "r-1".parse().unwrap(),
            machine: "m-1".parse().unwrap(),
            target: target(start),
            state,
            attempt: 1,
            boot: "b".into(),
            cause: None,
            created: 0,
            changed: 0,
            ended: state.is_over().then_some(0),
        }
    }

    #[test]
    fn only_a_machine_that_has_what_it_shall_have_boots_its_disk() {
        use BootDecision::{Disk, Loader};
        let table = [
            (RunState::Ordered, Start::Reboot, Loader),
            (RunState::Transferring, Start::Reboot, Loader),
            (RunState::Sealing, Start::Reboot, Loader),
            (RunState::Starting, Start::Reboot, Disk),
            (RunState::Succeeded, Start::Reboot, Disk),
            (RunState::AlreadyInstalled, Start::Reboot, Disk),
            // Else a machine that is to be off would be switched off at every start.
            (RunState::Succeeded, Start::PowerOff, Disk),
            (RunState::Succeeded, Start::Kexec, Loader),
            (RunState::Failed, Start::Reboot, Loader),
            (RunState::Retrying, Start::Reboot, Loader),
            (RunState::Superseded, Start::Reboot, Loader),
        ];
        for (state, start, expected) in table {
            let run = run(state, start);
            let wanted = Wanted::Deploy(Box::new(target(start)));
            let asking = Asking::Known { held: None, run: Some(&run), wanted: &wanted };
            assert_eq!(decide(asking).0, expected, "{state:?} {start:?}");
            let asking = Asking::Known { held: Some("x"), run: Some(&run), wanted: &wanted };
            assert_eq!(decide(asking).0, Loader, "held, {state:?} {start:?}");
        }
    }

    #[test]
    fn what_was_found_installed_is_started_from_its_disk_once_the_agent_has_compared_it() {
        let wanted = Wanted::Deploy(Box::new(target(Start::Reboot)));
        for (ended, expected) in [(None, BootDecision::Loader), (Some(5), BootDecision::Disk)] {
            let run = Run { ended, ..run(RunState::AlreadyInstalled, Start::Reboot) };
            let asking = Asking::Known { held: None, run: Some(&run), wanted: &wanted };
            assert_eq!(decide(asking).0, expected, "{ended:?}");
        }
    }

    #[test]
    fn whoever_is_not_known_or_wants_something_else_boots_the_loader() {
        let run = run(RunState::Succeeded, Start::Reboot);
        let other = Target { system: image(2), ..target(Start::Reboot) };
        for wanted in
            [Wanted::Deploy(Box::new(other)), Wanted::Hold("x".into()), Wanted::Fail("x".into())]
        {
            let asking = Asking::Known { held: None, run: Some(&run), wanted: &wanted };
            assert_eq!(decide(asking).0, BootDecision::Loader, "{wanted:?}");
        }
        let wanted = Wanted::Deploy(Box::new(target(Start::Reboot)));
        let asking = Asking::Known { held: None, run: None, wanted: &wanted };
        assert_eq!(decide(asking).0, BootDecision::Loader);
        assert_eq!(decide(Asking::Unknown).0, BootDecision::Loader);
        assert_eq!(decide(Asking::Doubtful(&[])).0, BootDecision::Loader);
    }
}
