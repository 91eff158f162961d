//! The loop: tell the controller who this is, do what it says, ask again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use store_remote::{Backoff, Options, Timing};
use wire::api::{CheckIn, CheckedIn, Made, VERSION};
use wire::{AskOrder, DeployOrder, HoldOrder, Inventory, MachineId, MakeOrder, Order, chain};

use crate::ask;
use crate::console::printable;
use crate::controller::{Controller, ControllerError};
use crate::inventory::{self, Reached, Roots};
use crate::make::MakeError;
use crate::report::Report;
use crate::start::Exit;

/// Waits between tries to reach the controller; the tries never end.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };
/// Wait before an order that is too long is asked for again.
const TOO_LONG: Duration = Duration::from_secs(60);
/// Tries to tell of an image: some minutes.
const TELL_TRIES: u32 = 40;
/// Least and longest wait before a machine that holds asks again.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// Wait after a failure, before the controller decides about another try.
const AFTER_FAILURE: Backoff =
    Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };
/// How long starting the OS may wait for the controller to hear of it: a
/// machine with an installed OS is to come up also where the server is down.
pub(crate) const FLUSH: Duration = Duration::from_secs(60);

/// An agent that has a network.
pub struct Agent {
    /// Base URL of controller and store.
    pub server: String,
    /// Where the kernel's file systems are.
    pub roots: Roots,
    /// Random name of this boot.
    pub boot: String,
    /// A folder for what is gone with this boot.
    pub work: PathBuf,
    /// How the server is reached.
    pub reached: Reached,
    /// Where to say what happens.
    pub report: Report,
    /// How patient the store's client is.
    pub options: Options,
}

/// What follows after a failure.
enum Then {
    /// The controller is asked again in a while.
    Pause,
    /// The machine starts anew, and its agent asks.
    Restart,
}

impl Agent {
    fn timing(&self) -> &dyn Timing {
        &*self.report.timing
    }

    /// Runs until there is something to leave into.
    pub fn run(&self, controller: &Controller) -> Exit {
        let mut failures = 0;
        let mut answers = BTreeMap::new();
        loop {
            // Told once: the controller keeps answers, and may be told to forget them.
            let answers_now = std::mem::take(&mut answers);
            let (inventory, checked_in) = self.check_in(controller, answers_now);
            self.report.log.set_machine(checked_in.machine.clone());
            match checked_in.order {
                Order::Hold(hold) => self.hold(&checked_in.machine, &inventory, &hold),
                Order::Unknown => {
                    let reason = "the controller gave an order that this agent does not know; \
                                  update the boot assets"
                        .to_owned();
                    let hold = HoldOrder { reason, retry_secs: 60 };
                    self.hold(&checked_in.machine, &inventory, &hold);
                }
                Order::Ask(question) => {
                    let answer = self.ask(&question);
                    answers.insert(question.name, answer);
                }
                Order::Deploy(order) => match self.obey(&checked_in.machine, &order) {
                    Ok(exit) => return exit,
                    Err(()) => self.pause(&mut failures),
                },
                Order::Make(order) => {
                    match self.obey_make(controller, &checked_in.machine, &order) {
                        Ok(()) => {}
                        Err(Then::Pause) => self.pause(&mut failures),
                        Err(Then::Restart) => return Exit::Reboot,
                    }
                }
            }
        }
    }

    /// After a failure, before the controller decides about another try.
    fn pause(&self, failures: &mut u32) {
        *failures += 1;
        let wait = AFTER_FAILURE.delay(*failures, self.timing().random());
        self.report.say(&format!("asking the controller again in {} s", wait.as_secs()));
        self.timing().sleep(wait);
    }

    /// Tells of an image until the controller has it on record, or does not want it.
    pub(crate) fn tell(&self, controller: &Controller, made: &Made) -> Result<(), ControllerError> {
        let mut failures = 0;
        loop {
            let Err(error) = controller.made(made) else { return Ok(()) };
            failures += 1;
            if error.is_refusal() || failures >= TELL_TRIES {
                return Err(error);
            }
            self.report.console.say(&format!("made: {}; trying on", chain(&error)));
            self.timing().sleep(BACKOFF.delay(failures, self.timing().random()));
        }
    }

    /// Asks until there is an answer; gives what the machine was when it was given.
    fn check_in(
        &self,
        controller: &Controller,
        answers: BTreeMap<String, Option<String>>,
    ) -> (Inventory, CheckedIn) {
        let mut request = CheckIn {
            version: VERSION,
            boot: self.boot.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: Inventory::default(),
            answers,
        };
        let mut failures = 0;
        let mut last_said = String::new();
        loop {
            // Anew for each try: what kept the last from the controller may be that the
            // machine moved.
            request.inventory = inventory::read(&self.roots, &self.reached);
            let error: ControllerError = match controller.check_in(&request) {
                Ok(checked_in) => return (request.inventory, checked_in),
                Err(error) => error,
            };
            failures += 1;
            let text = chain(&error);
            if let ControllerError::TooLong { .. } = error {
                // Only a person changes that: told to whoever may be one, each time.
                self.report.say(&format!("check-in: {text}"));
                self.timing().sleep(TOO_LONG);
                continue;
            }
            // The same over and over only every minute or so.
            if text != last_said || failures % 5 == 0 {
                self.report.console.say(&format!("check-in: {text}; trying on"));
                last_said = text;
            }
            self.timing().sleep(BACKOFF.delay(failures, self.timing().random()));
        }
    }

    /// Asks the person at the machine; none where nobody answers.
    fn ask(&self, question: &AskOrder) -> Option<String> {
        let answer = ask::ask(&self.report.console, question, self.timing());
        let AskOrder { name, text, .. } = question;
        self.report.say(&match (&answer, &question.default) {
            (Some(answer), _) => format!("{text} Answered at the console: {name} is {answer}"),
            (None, Some(default)) => format!("{text} Nobody answered: {name} is {default}"),
            (None, None) => format!("{text} Nobody answered"),
        });
        answer
    }

    fn hold(&self, machine: &MachineId, inventory: &Inventory, hold: &HoldOrder) {
        let wait = Duration::from_secs(hold.retry_secs.into()).clamp(HOLD.0, HOLD.1);
        self.report.console.say(&hold_text(machine, inventory, hold, wait));
        self.timing().sleep(wait);
    }

    /// Does a deployment; says and reports what fails.
    fn obey(&self, machine: &MachineId, order: &DeployOrder) -> Result<Exit, ()> {
        self.report.log.set_run(Some((order.run.clone(), order.attempt)));
        let what = || format!("deployment of {}", order.system.reference);
        self.told(what, self.deploy(machine, order))
    }

    /// Makes an image; says and reports what fails.
    fn obey_make(
        &self,
        controller: &Controller,
        machine: &MachineId,
        order: &MakeOrder,
    ) -> Result<(), Then> {
        self.report.log.set_run(Some((order.run.clone(), order.attempt)));
        let what = || format!("making {}", order.making.configuration.reference());
        let made = self.make(controller, machine, order);
        // Another try on this boot would fail for a reason that is not its own.
        let then = match &made {
            Err(MakeError::InUse { .. }) => Then::Restart,
            _ => Then::Pause,
        };
        self.told(what, made).map_err(|()| then)
    }

    fn told<T, E: std::error::Error>(
        &self,
        what: impl FnOnce() -> String,
        result: Result<T, E>,
    ) -> Result<T, ()> {
        result.map_err(|error| {
            self.report.say(&format!("{} failed: {}", what(), chain(&error)));
            self.report.log.flush(FLUSH);
        })
    }
}

/// What a person in front of a waiting machine needs to know.
fn hold_text(
    machine: &MachineId,
    inventory: &Inventory,
    hold: &HoldOrder,
    wait: Duration,
) -> String {
    let system = &inventory.system;
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "not reported".to_owned());
    let macs: Vec<_> =
        inventory.nics.iter().map(|nic| format!("{} {}", nic.name, nic.mac)).collect();
    let rule = "-".repeat(72);
    let lines = [
        rule.clone(),
        "This machine waits. Nothing on its disks is touched.".to_owned(),
        format!("  machine       {machine}"),
        format!("  manufacturer  {}", known(&system.manufacturer)),
        format!("  model         {}", known(&system.product)),
        format!("  serial        {}", known(&system.serial)),
        format!("  cards         {}", macs.join(", ")),
        format!("Why: {}", hold.reason),
        format!("It asks again in {} s.", wait.as_secs()),
        rule,
    ];
    lines.map(|line| printable(&line)).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_says_who_why_and_when() {
        let mut inventory = Inventory::default();
        inventory.system.product = Some("R640".into());
        let hold = HoldOrder { reason: "no rule\nmatches".into(), retry_secs: 30 };
        let machine = "m-1".parse().unwrap();
        let text = hold_text(&machine, &inventory, &hold, Duration::from_secs(30));
        for part in ["m-1", "R640", "not reported", "Why: no rule matches", "again in 30 s"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
