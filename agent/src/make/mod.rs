//! Making an image on the machine itself: install the base, run a script on it,
//! send what came of it to the store.
//!
//! From the first write on the receipt of the disk says `installing`, and this
//! never changes it: a disk that a script was at is not started but installed.

pub mod capture;
pub mod resolver;
pub mod root;
pub mod script;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use wire::api::Made;
use wire::{MachineId, MakeOrder, Making, Step};

use crate::agent::{Agent, FLUSH};
use crate::choose::describe;
use crate::controller::{Controller, ControllerError};
use crate::deploy::{Chosen, DeployError};
use crate::install::Purpose;
use crate::progress::size;
use crate::target::{Disk, Target};
use capture::{Capture, CaptureError};
use root::{MountError, Root};
use script::{Script, ScriptError};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The base was not installed.
    #[error(transparent)]
    Base(#[from] DeployError),
    /// Its files could not be reached.
    #[error("the base that was installed cannot be worked on")]
    Mount(#[from] MountError),
    /// The script failed.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// The script is longer than agreed.
    #[error("the script has {0} bytes, {max} is the limit", max = Making::SCRIPT_BYTES_MAX)]
    TooLong(usize),
    /// The disk is not as it was.
    #[error("the disk cannot be read back; is something of it still in use?")]
    Disk(#[source] std::io::Error),
    /// What the script left is not in the store.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// What the script left behind keeps the disk in use. Only a restart ends that.
    #[error("{}, so the machine is restarted", left_behind(script.as_ref()))]
    InUse {
        /// Why the script failed, where it did.
        script: Option<ScriptError>,
        /// What shows it.
        #[source]
        source: Box<InUse>,
    },
    /// The controller does not take it.
    #[error("the image is in the store, and the controller does not take it")]
    Made(#[source] ControllerError),
}

/// What shows that a disk is still in use.
#[derive(Debug, thiserror::Error)]
pub enum InUse {
    /// A file system of it stays mounted.
    #[error(transparent)]
    Mounted(#[from] MountError),
    /// It cannot be had for oneself.
    #[error(transparent)]
    Open(#[from] DeployError),
}

fn left_behind(script: Option<&ScriptError>) -> String {
    match script {
        // Why it failed comes first: the rest follows from that, mostly.
        Some(failed) => format!("{failed}; what it left behind keeps the disk in use"),
        None => "the script left something behind that keeps the disk in use: it has to end its \
                 loop devices, swap and the like itself"
            .to_owned(),
    }
}

impl Agent {
    /// Makes an image and tells the controller.
    pub(crate) fn make(
        &self,
        controller: &Controller,
        machine: &MachineId,
        order: &MakeOrder,
    ) -> Result<(), MakeError> {
        let report = &self.report;
        let (run, attempt) = (&order.run, order.attempt);
        report.say(&format!("make {}, run {run}, attempt {attempt}", order.making.configuration));
        report.say(&order.reason);
        let chosen = self.choose(&[&order.base], Purpose::Make);
        let (client, chosen) = match chosen {
            Ok(chosen) => chosen,
            Err(error) => return Ok(self.failed_plan(error)?),
        };
        let Some(base) = chosen.first() else { return Ok(()) };
        // Also where its receipt is equal: the system has been running since.
        self.install(machine, run, &[base], &client, Purpose::Make)?;
        let disk = report.step(Step::Script, |_| self.script(order, base))?;
        report.step(Step::Capture, |_| {
            // The kernel caches a disk and its partitions apart.
            disk.drop_cache().map_err(MakeError::Disk)?;
            report.say(&format!("capture: reading {}", describe(&base.disk)));
            let capture = Capture {
                disk: &base.disk.path,
                base: &base.envelope,
                configuration: &order.making.configuration,
                client: &client,
                report,
            };
            let (envelope, pushed) = capture.run()?;
            drop(disk);
            let sent = size(pushed.sent_bytes);
            report.say(&format!("capture: {} chunks, {sent} sent", pushed.sent_chunks));
            let image = envelope.digest();
            // What is told of the run shall be there before the run ends.
            report.log.flush(FLUSH);
            let (machine, run, boot) = (machine.clone(), run.clone(), self.boot.clone());
            let made = Made { machine, boot, run, attempt, image };
            self.tell(controller, &made).map_err(MakeError::Made)
        })
    }

    /// Runs the script on the base; gives the disk, which nobody else uses any more.
    fn script(&self, order: &MakeOrder, base: &Chosen<'_>) -> Result<Disk, MakeError> {
        if order.making.script.len() > Making::SCRIPT_BYTES_MAX {
            return Err(MakeError::TooLong(order.making.script.len()));
        }
        let report = &self.report;
        let folder = self.work.join("root");
        let say = |line: &str| report.say(line);
        let mut root = Root::mount(&self.roots, &base.disk, &base.envelope, &folder, &say)?;
        let servers = self.reached.lease.resolvers();
        if !servers.is_empty() {
            root.resolve_with(&resolver::text(&servers))?;
        }
        let script = Script {
            text: &order.making.script,
            environment: self.environment(order, base),
            timeout: Duration::from_secs(order.making.timeout_secs.into()),
        };
        let ran = script::run(&root.folder, &script, |line| report.say(&format!("| {line}")));
        // Also where it failed: another try on this boot needs the disk as well.
        match self.take_back(root, base) {
            Ok(disk) => ran.map(|()| disk).map_err(MakeError::Script),
            Err(source) => Err(MakeError::InUse { script: ran.err(), source: Box::new(source) }),
        }
    }

    /// The disk of what was mounted, which nobody else has open.
    fn take_back(&self, root: Root, base: &Chosen<'_>) -> Result<Disk, InUse> {
        root.unmount()?;
        let is_busy = |error: &DeployError| match error {
            DeployError::Open { source, .. } => source.kind() == ErrorKind::ResourceBusy,
            _ => false,
        };
        // The file systems that the script had mounted end a moment after it, too.
        Ok(root::patiently(root::TRIES, || self.open(&base.disk), is_busy)?)
    }

    fn environment(&self, order: &MakeOrder, base: &Chosen<'_>) -> BTreeMap<String, String> {
        let mut environment = order.making.environment.clone();
        let ours = [
            ("INGOT_RECIPE", order.making.configuration.recipe.clone()),
            ("INGOT_KEY", order.making.configuration.key.to_string()),
            ("INGOT_DISK", base.disk.path.display().to_string()),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        environment
    }
}
