//! The loop: tell the controller who this is, do what it says, ask again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use store_remote::{Backoff, Client, FetchError, Options, Timing};
use wire::api::{CheckIn, CheckedIn, VERSION};
use wire::{AskOrder, DeployOrder, HoldOrder, Inventory, MachineId, Order, Start, Step, chain};

use crate::ask;
use crate::choose::{ChooseError, choose, describe};
use crate::console::printable;
use crate::controller::{Controller, ControllerError};
use crate::install::{InstallError, Job, install};
use crate::inventory::{self, Candidate, Reached, Roots};
use crate::report::Report;
use crate::start::{self, Exit, LoadError};
use crate::target::{Disk, Target};

/// Waits between tries to reach the controller; the tries never end.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };
/// Least and longest wait before a machine that holds asks again.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// Wait after a failure, before the controller decides about another try.
const AFTER_FAILURE: Backoff =
    Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };
/// How long starting the OS may wait for the controller to hear of it: a
/// machine with an installed OS is to come up also where the server is down.
const FLUSH: Duration = Duration::from_secs(60);

/// An agent that has a network.
pub struct Agent {
    /// Base URL of controller and store.
    pub server: String,
    /// Where the kernel's file systems are.
    pub roots: Roots,
    /// Random name of this boot.
    pub boot: String,
    /// How the server is reached.
    pub reached: Reached,
    /// Where to say what happens.
    pub report: Report,
    /// How patient the store's client is.
    pub options: Options,
}

/// Why a deployment failed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The image is not to be had.
    #[error("the image cannot be had")]
    Envelope(#[source] FetchError),
    /// There is no disk to choose.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// What is on the disk might be what is wanted.
    #[error("whether {disk} has a receipt is not known, so it is left untouched: {why}")]
    Receipt {
        /// The disk.
        disk: String,
        /// What stands in the way, and what to do.
        why: String,
    },
    /// The disk cannot be opened.
    #[error("opening {disk} for writing failed; is it in use?")]
    Open {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The device's name went to another disk.
    #[error("{disk} was chosen, but its name now stands for {now}: nothing was written to it")]
    Swapped {
        /// The disk that was chosen.
        disk: String,
        /// What is there.
        now: String,
    },
    /// Installing failed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The installed OS cannot be started.
    #[error(transparent)]
    Load(#[from] LoadError),
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
            let inventory = inventory::read(&self.roots, &self.reached);
            // Told once: the controller keeps answers, and may be told to forget them.
            let answers_now = std::mem::take(&mut answers);
            let checked_in = self.check_in(controller, &inventory, answers_now);
            self.report.log.set_machine(checked_in.machine.clone());
            match checked_in.order {
                Order::Hold(hold) => self.hold(&checked_in.machine, &inventory, &hold),
                Order::Unknown | Order::Make(_) => {
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
                    Err(()) => {
                        failures += 1;
                        let wait = AFTER_FAILURE.delay(failures, self.timing().random());
                        let secs = wait.as_secs();
                        self.report.say(&format!("asking the controller again in {secs} s"));
                        self.timing().sleep(wait);
                    }
                },
            }
        }
    }

    /// Asks until there is an answer.
    fn check_in(
        &self,
        controller: &Controller,
        inventory: &Inventory,
        answers: BTreeMap<String, Option<String>>,
    ) -> CheckedIn {
        let request = CheckIn {
            version: VERSION,
            boot: self.boot.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: inventory.clone(),
            answers,
        };
        let mut failures = 0;
        let mut last_said = String::new();
        loop {
            let error: ControllerError = match controller.check_in(&request) {
                Ok(checked_in) => return checked_in,
                Err(error) => error,
            };
            failures += 1;
            let text = chain(&error);
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
        let result = self.deploy(machine, order);
        if let Err(error) = &result {
            self.report.say(&format!(
                "deployment of {} failed: {}",
                order.system.reference,
                chain(error)
            ));
        }
        if result.is_err() {
            self.report.log.flush(FLUSH);
        }
        result.map_err(|_| ())
    }

    fn deploy(&self, machine: &MachineId, order: &DeployOrder) -> Result<Exit, DeployError> {
        let report = &self.report;
        report.say(&format!(
            "deploy {} ({}), run {}, attempt {}",
            order.system.reference,
            order.system.image.short(),
            order.run,
            order.attempt
        ));
        // Found out before the steps that it decides about, and told by the first of them.
        let fetched =
            self.client().and_then(|client| Ok((client.envelope(&order.system.image)?, client)));
        let (envelope, client) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return self.failed_plan(DeployError::Envelope(error)),
        };
        // Only now: fetching may take minutes, in which disks come and go.
        let candidates = inventory::disks(&self.roots);
        let disk = match choose(&candidates, &order.system.disk) {
            Ok(disk) => disk,
            Err(error) => return self.failed_plan(error.into()),
        };
        if let Some(why) = disk.receipt_unknown.clone() {
            return self.failed_plan(DeployError::Receipt { disk: describe(disk), why });
        }
        match disk.disk.not_installed(order.system.image) {
            None => self.skip_installation(&describe(disk)),
            Some(reason) => {
                report.say(&format!("{}: {reason}", disk.disk.name));
                self.install(machine, order, &envelope, disk, &client)?;
            }
        }
        self.start(order.start, disk, &envelope)
    }

    /// A client of the store that says what it has trouble with.
    fn client(&self) -> Result<Client, FetchError> {
        let report = self.report.clone();
        let client = Client::new(&self.server, self.options, Arc::clone(&report.timing))?;
        Ok(client.on_retry(move |error, wait| {
            let (cause, secs) = (chain(error), wait.as_secs_f32());
            report.say(&format!("store: {cause}; trying again in {secs:.1} s"));
        }))
    }

    fn failed_plan<T>(&self, error: DeployError) -> Result<T, DeployError> {
        self.report.step(Step::Plan, |_| Err(error))
    }

    fn skip_installation(&self, disk: &str) {
        let reason = format!("the receipt on {disk} is equal");
        for step in [Step::Plan, Step::Transfer, Step::Verify, Step::Seal] {
            self.report.skip(step, &reason);
        }
    }

    fn install(
        &self,
        machine: &MachineId,
        order: &DeployOrder,
        envelope: &store_format::Envelope,
        disk: &Candidate,
        client: &Client,
    ) -> Result<(), DeployError> {
        let opened = Disk::open(&disk.path, disk.disk.sector_bytes, disk.zeroes);
        let target = match opened {
            Ok(target) => target,
            Err(source) => {
                return self.failed_plan(DeployError::Open { disk: describe(disk), source });
            }
        };
        // The name may have gone to another disk meanwhile; from now on it cannot.
        let now = inventory::disk(&self.roots, &disk.disk.name);
        if let Some(now) = swapped(disk, now.as_ref(), target.bytes()) {
            return self.failed_plan(DeployError::Swapped { disk: describe(disk), now });
        }
        install(&Job {
            order,
            machine,
            envelope: envelope.clone(),
            disk: describe(disk),
            identity: disk.disk.identity().map(str::to_owned),
            target: &target,
            client,
            report: &self.report,
        })?;
        Ok(())
    }

    /// Prepares to leave. Where kexec does not work the firmware has to do.
    fn start(
        &self,
        how: Start,
        disk: &Candidate,
        envelope: &store_format::Envelope,
    ) -> Result<Exit, DeployError> {
        let exit = match how {
            Start::Kexec => self.report.step(Step::Start, |_| {
                let os = start::read(&disk.path, envelope)?;
                start::load(&os)?;
                Ok::<_, LoadError>(Exit::Kexec)
            }),
            Start::PowerOff => self.report.step(Step::Start, |_| Ok(Exit::PowerOff)),
            Start::Reboot | Start::Unknown => self.report.step(Step::Start, |_| Ok(Exit::Reboot)),
        };
        let exit = exit.unwrap_or_else(|_| {
            self.report.say("the installed OS cannot be started from here: restarting the machine");
            Exit::Reboot
        });
        if !self.report.log.flush(FLUSH) {
            self.report.console.say("the controller is away; starting without it");
        }
        Ok(exit)
    }
}

/// What is opened instead of the disk that was chosen; `None` where it is that disk.
fn swapped(chosen: &Candidate, now: Option<&Candidate>, opened_bytes: u64) -> Option<String> {
    let Some(now) = now else { return Some("no disk".to_owned()) };
    let what = |candidate: &Candidate| {
        let disk = &candidate.disk;
        (disk.serial.clone(), disk.wwid.clone(), disk.model.clone(), disk.size_bytes)
    };
    if what(chosen) != what(now) {
        return Some(describe(now));
    }
    (opened_bytes != now.disk.size_bytes).then(|| format!("a disk of {opened_bytes} bytes"))
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
    fn a_name_that_went_to_another_disk_is_noticed() {
        let disk = |change: fn(&mut wire::Disk)| {
            let mut disk = wire::Disk {
                name: "sda".into(),
                size_bytes: 1 << 30,
                serial: Some("A".into()),
                wwid: Some("W".into()),
                ..wire::Disk::default()
            };
            change(&mut disk);
            let path = "/dev/sda".into();
            Candidate { disk, path, used_by: None, zeroes: false, receipt_unknown: None }
        };
        let chosen = disk(|_| {});
        assert_eq!(swapped(&chosen, Some(&chosen), 1 << 30), None);
        assert!(swapped(&chosen, Some(&chosen), 1 << 31).is_some());
        assert!(swapped(&chosen, None, 1 << 30).is_some());
        let others: [fn(&mut wire::Disk); 4] = [
            |disk| disk.serial = Some("B".into()),
            |disk| disk.serial = None,
            |disk| disk.wwid = Some("X".into()),
            |disk| disk.size_bytes = 1 << 31,
        ];
        for other in others {
            assert!(swapped(&chosen, Some(&disk(other)), 1 << 30).is_some());
        }
    }

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
