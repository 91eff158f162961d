//! Deployments: which disks, what of it is there already, install the rest, start.

use std::sync::Arc;

use store_format::Envelope;
use store_remote::{Client, FetchError};
use wire::{DeployOrder, ImageOrder, MachineId, RunId, Start, Step, chain};

use crate::agent::{Agent, FLUSH};
use crate::choose::{ChooseError, choose_all, describe};
use crate::install::{Failed, Job, Member, Purpose, install};
use crate::inventory::{self, Candidate};
use crate::start::{self, Exit, LoadError};
use crate::target::{Disk, Target};

/// Why a deployment failed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// An image is not to be had.
    #[error("the image {reference} cannot be had")]
    Envelope {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<FetchError>,
    },
    /// The store cannot even be asked.
    #[error("the images cannot be had")]
    Store(#[source] FetchError),
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
    Install(#[from] Failed),
    /// The installed OS cannot be started.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// An image of an order, and the disk that was chosen for it.
pub(crate) struct Chosen<'a> {
    pub order: &'a ImageOrder,
    pub envelope: Envelope,
    pub disk: Candidate,
}

impl Agent {
    pub(crate) fn deploy(
        &self,
        machine: &MachineId,
        order: &DeployOrder,
    ) -> Result<Exit, DeployError> {
        let report = &self.report;
        for image in order.images() {
            let (run, attempt) = (&order.run, order.attempt);
            report.say(&format!("deploy {image}, run {run}, attempt {attempt}"));
        }
        // Found out before the steps that it decides about, and told by the first of them.
        let images: Vec<&ImageOrder> = order.images().collect();
        let (client, chosen) = match self.choose(&images, Purpose::Start) {
            Ok(chosen) => chosen,
            Err(error) => return self.failed_plan(error),
        };
        let missing: Vec<_> = chosen.iter().filter(|chosen| self.lacks(chosen)).collect();
        match missing.as_slice() {
            [] => self.skip_installation(&chosen),
            missing => self.install(machine, &order.run, missing, &client, Purpose::Start)?,
        }
        match chosen.first() {
            Some(system) => self.start(order.start, &system.disk, &system.envelope),
            None => self.failed_plan(ChooseError::NoDisk.into()),
        }
    }

    /// Envelope and disk of every image, before anything is opened for writing.
    pub(crate) fn choose<'a>(
        &self,
        images: &[&'a ImageOrder],
        purpose: Purpose,
    ) -> Result<(Client, Vec<Chosen<'a>>), DeployError> {
        let client = self.client().map_err(DeployError::Store)?;
        let envelopes = images.iter().map(|image| {
            let reference = image.reference.to_string();
            let envelope = client.envelope(&image.image);
            envelope.map_err(|error| DeployError::Envelope { reference, source: Box::new(error) })
        });
        let envelopes = envelopes.collect::<Result<Vec<_>, _>>()?;
        // Only now: fetching may take minutes, in which disks come and go.
        let candidates = inventory::disks(&self.roots);
        let disks = choose_all(&candidates, images, purpose)?;
        if let Some((disk, why)) = disks
            .iter()
            .find_map(|disk| disk.receipt_unknown.as_ref().map(|why| (describe(disk), why.clone())))
        {
            return Err(DeployError::Receipt { disk, why });
        }
        let chosen = images
            .iter()
            .zip(envelopes)
            .zip(disks)
            .map(|((order, envelope), disk)| Chosen { order, envelope, disk: disk.clone() });
        let chosen = chosen.collect();
        Ok((client, chosen))
    }

    /// Whether an image is to be installed; says why, or that it is not.
    fn lacks(&self, chosen: &Chosen<'_>) -> bool {
        let Chosen { order, disk, .. } = chosen;
        let reason = disk.disk.not_installed(order.image);
        if let Some(reason) = &reason {
            self.report.say(&format!("{}: {reason}", disk.disk.name));
        }
        reason.is_some()
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

    pub(crate) fn failed_plan<T>(&self, error: DeployError) -> Result<T, DeployError> {
        self.report.step(Step::Plan, |_| Err(error))
    }

    fn skip_installation(&self, chosen: &[Chosen<'_>]) {
        let disks: Vec<_> = chosen.iter().map(|chosen| describe(&chosen.disk)).collect();
        let reason = match disks.as_slice() {
            [disk] => format!("the receipt on {disk} is equal"),
            disks => format!("the receipts on {} are equal", disks.join(" and ")),
        };
        for step in [Step::Plan, Step::Transfer, Step::Verify, Step::Seal] {
            self.report.skip(step, &reason);
        }
    }

    pub(crate) fn install(
        &self,
        machine: &MachineId,
        run: &RunId,
        chosen: &[&Chosen<'_>],
        client: &Client,
        purpose: Purpose,
    ) -> Result<(), DeployError> {
        let targets = chosen.iter().map(|chosen| self.open(&chosen.disk));
        let targets = match targets.collect::<Result<Vec<Disk>, _>>() {
            Ok(targets) => targets,
            Err(error) => return self.failed_plan(error),
        };
        let members = chosen.iter().zip(&targets).map(|(chosen, target)| Member {
            order: chosen.order,
            envelope: chosen.envelope.clone(),
            disk: describe(&chosen.disk),
            identity: chosen.disk.disk.identity().map(str::to_owned),
            target,
        });
        let members = members.collect();
        install(&Job { run, machine, members, purpose, client, report: &self.report })?;
        Ok(())
    }

    /// Opens a disk for writing, and for nobody else.
    pub(crate) fn open(&self, disk: &Candidate) -> Result<Disk, DeployError> {
        let target = Disk::open(&disk.path, disk.disk.sector_bytes, disk.zeroes)
            .map_err(|source| DeployError::Open { disk: describe(disk), source })?;
        // The name may have gone to another disk meanwhile; from now on it cannot.
        let now = inventory::disk(&self.roots, &disk.disk.name);
        match swapped(disk, now.as_ref(), target.bytes()) {
            Some(now) => Err(DeployError::Swapped { disk: describe(disk), now }),
            None => Ok(target),
        }
    }

    /// Prepares to leave. Where kexec does not work the firmware has to do.
    fn start(
        &self,
        how: Start,
        disk: &Candidate,
        envelope: &Envelope,
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
}
