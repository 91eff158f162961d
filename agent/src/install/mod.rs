//! Bringing images onto disks.
//!
//! Order: plan, wipe what made the disk boot, note `installing`, write all but
//! the boot-critical parts, flush, read back and compare, seal, note
//! `installed`. Wherever it stops, the disk boots the old OS untouched, or
//! nothing, or the new OS complete; the next try keeps what is right.

mod layout;
mod plan;
mod seal;
mod table;
mod transfer;
mod verify;

use std::io;
use std::sync::atomic::Ordering;

pub use layout::{FitError, Layout, Withheld};
pub use plan::{Copy, MakePlanError, Plan};
pub use seal::SealError;
use store_format::Envelope;
use store_remote::{Client, FetchError, Image};
pub use table::{TableError, relocate};
pub use transfer::TransferError;
pub use verify::VerifyError;
use wire::{EventKind, ImageOrder, MachineId, Receipt, ReceiptState, RunId, Step};

use crate::progress::size;
use crate::receipt::{self, ReceiptError};
use crate::report::{Gauge, Report, Tally};
use crate::target::Target;

/// What an installation needs.
pub struct Job<'a> {
    /// The run that it belongs to.
    pub run: &'a RunId,
    /// Whom the controller says this machine is.
    pub machine: &'a MachineId,
    /// What to install; the one that is started comes first.
    pub members: Vec<Member<'a>>,
    /// What for.
    pub purpose: Purpose,
    /// Where the images come from.
    pub client: &'a Client,
    /// Where to say what happens.
    pub report: &'a Report,
}

/// What an installation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be started: it fills its disk, and the receipt says that it is installed.
    Start,
    /// To make another image of it: the disk holds the very bytes of the image, and the
    /// receipt says for ever that the installation did not end.
    Make,
}

/// An image and its disk.
pub struct Member<'a> {
    /// What to install.
    pub order: &'a ImageOrder,
    /// Its envelope.
    pub envelope: Envelope,
    /// The disk, for people.
    pub disk: String,
    /// What tells the disk from every other.
    pub identity: Option<String>,
    /// The disk.
    pub target: &'a dyn Target,
}

/// An installation that failed, and on which disk.
#[derive(Debug, thiserror::Error)]
#[error("{disk}")]
pub struct Failed {
    /// The disk, for people.
    pub disk: String,
    /// Why.
    #[source]
    pub error: Box<InstallError>,
}

/// Why an installation failed. What it left behind does not boot, unless it
/// failed before the first write.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The image does not fit the disk.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The store does not say what the image is made of.
    #[error("the image's chunk list cannot be had")]
    Image(#[source] FetchError),
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] MakePlanError),
    /// The receipt cannot be written.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// Fetching or writing failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The disk does not do as told.
    #[error("the disk does not work: flushing failed")]
    Flush(#[source] io::Error),
    /// Reading back failed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The last writes failed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What the first step finds out about a member.
struct Planned {
    layout: Layout,
    image: Image,
    plan: Plan,
    /// Whether the disk has a receipt, of whatever state.
    had_receipt: bool,
}

/// A member between its plan and its seal.
struct Ready<'a> {
    member: &'a Member<'a>,
    planned: &'a Planned,
    disk: Withheld<'a>,
}

/// Installs. Each step does all members before the next one begins; events tell it.
///
/// The disk that is started is wiped before any other is written to, and sealed
/// after all others: so it starts only where they have what belongs to it.
pub fn install(job: &Job<'_>) -> Result<(), Failed> {
    let report = job.report;
    let planned = report.step(Step::Plan, |tally| job.plan(tally))?;
    let pairs = job.members.iter().zip(&planned);
    let ready: Vec<Ready<'_>> = pairs.map(|(member, planned)| member.ready(planned)).collect();
    report.step(Step::Transfer, |tally| job.transfer(&ready, tally))?;
    report.step(Step::Verify, |_| job.verify(&ready))?;
    report.step(Step::Seal, |tally| job.seal(&ready, tally))
}

impl Job<'_> {
    fn plan(&self, tally: &Tally) -> Result<Vec<Planned>, Failed> {
        // None is asked of the store for nothing, where another does not fit.
        let layout = |member: &Member<'_>| Layout::new(&member.envelope, member.target);
        let layouts = self
            .members
            .iter()
            .map(|member| layout(member).map_err(|error| member.failed(error.into())));
        let layouts = layouts.collect::<Result<Vec<_>, _>>()?;
        let total = self.members.iter().map(|member| member.envelope.disk_bytes).sum();
        let gauge = self.report.gauge(Step::Plan, 0, total);
        let members = self.members.iter().zip(layouts);
        let planned = members.map(|(member, layout)| {
            let planned = member.plan(self, layout, &gauge, tally);
            planned.map_err(|error| member.failed(error))
        });
        planned.collect()
    }

    fn transfer(&self, ready: &[Ready<'_>], tally: &Tally) -> Result<(), Failed> {
        let sum = |of: fn(&Plan) -> u64| ready.iter().map(|ready| of(&ready.planned.plan)).sum();
        let (present, all) = (sum(|plan| plan.present_bytes), sum(|plan| plan.image_bytes));
        let gauge = self.report.gauge(Step::Transfer, present, all);
        each(ready, |ready| ready.transfer(self, &gauge, tally))
    }

    fn verify(&self, ready: &[Ready<'_>]) -> Result<(), Failed> {
        let total = ready.iter().map(|ready| ready.member.envelope.disk_bytes).sum();
        let gauge = self.report.gauge(Step::Verify, 0, total);
        each(ready, |ready| ready.verify(&gauge))
    }

    fn seal(&self, ready: &[Ready<'_>], tally: &Tally) -> Result<(), Failed> {
        each(ready.iter().rev(), |ready| ready.seal(self, tally))
    }

    /// Adds what is received meanwhile to the tally.
    fn counting<T>(&self, tally: &Tally, work: impl FnOnce() -> T) -> T {
        let before = self.client.received_bytes();
        let result = work();
        let received = self.client.received_bytes().saturating_sub(before);
        tally.received.fetch_add(received, Ordering::Relaxed);
        result
    }
}

fn each<'a, 'b: 'a>(
    ready: impl IntoIterator<Item = &'a Ready<'b>>,
    work: impl Fn(&Ready<'b>) -> Result<(), InstallError>,
) -> Result<(), Failed> {
    let mut all = ready.into_iter();
    all.try_for_each(|ready| work(ready).map_err(|error| ready.member.failed(error)))
}

impl Member<'_> {
    fn failed(&self, error: InstallError) -> Failed {
        Failed { disk: self.disk.clone(), error: Box::new(error) }
    }

    fn ready<'a>(&'a self, planned: &'a Planned) -> Ready<'a> {
        let disk = Withheld::new(self.target, &planned.layout);
        Ready { member: self, planned, disk }
    }

    fn plan(
        &self,
        job: &Job<'_>,
        layout: Layout,
        gauge: &Gauge<'_>,
        tally: &Tally,
    ) -> Result<Planned, InstallError> {
        let image = job.counting(tally, || job.client.image(self.envelope.clone()));
        let image = image.map_err(InstallError::Image)?;
        self.target.drop_cache().map_err(InstallError::Flush)?;
        let had_receipt = self.has_receipt()?;
        let plan = Plan::make(&image, &Withheld::new(self.target, &layout), had_receipt, gauge)?;
        job.report.say(&format!(
            "plan: {} onto {}: {} of content, {} already there, {} to fetch in {} requests",
            self.order.reference,
            self.disk,
            size(plan.image_bytes),
            size(plan.present_bytes),
            size(plan.fetch_bytes()),
            plan.requests.len(),
        ));
        job.report.event(EventKind::Planned {
            image: self.order.image,
            disk: self.disk.clone(),
            image_bytes: plan.image_bytes,
            present_bytes: plan.present_bytes,
            fetch_bytes: plan.fetch_bytes(),
            requests: plan.requests.len() as u64,
        });
        Ok(Planned { layout, image, plan, had_receipt })
    }

    /// A receipt of a newer version stops the installation.
    fn has_receipt(&self) -> Result<bool, InstallError> {
        let mut slot = vec![0; receipt::BYTES];
        let offset = receipt::START;
        let read = self.target.read_at(offset, &mut slot);
        read.map_err(|source| MakePlanError::Read { offset, source })?;
        Ok(receipt::found(&slot)?.is_some())
    }

    fn slot(&self, job: &Job<'_>, state: ReceiptState) -> Result<Vec<u8>, ReceiptError> {
        receipt::encode(&Receipt {
            version: Receipt::VERSION,
            state,
            image: self.order.image,
            reference: self.order.reference.clone(),
            run: job.run.clone(),
            machine: job.machine.clone(),
            disk: self.identity.clone(),
            disk_bytes: self.target.bytes(),
        })
    }
}

impl Ready<'_> {
    fn transfer(
        &self,
        job: &Job<'_>,
        gauge: &Gauge<'_>,
        tally: &Tally,
    ) -> Result<(), InstallError> {
        let Ready { member, planned, disk } = self;
        let Planned { layout, image, plan, had_receipt } = planned;
        let slot = member.slot(job, ReceiptState::Installing)?;
        seal::begin(member.target, layout, &slot, *had_receipt, tally)?;
        job.counting(tally, || transfer::transfer(job.client, image, plan, disk, gauge, tally))?;
        member.target.flush().map_err(InstallError::Flush)
    }

    fn verify(&self, gauge: &Gauge<'_>) -> Result<(), InstallError> {
        let verified = verify::verify(&self.planned.image, &self.disk, gauge);
        // What is cached must not look right to the next try when the medium is not.
        self.member.target.drop_cache().map_err(InstallError::Flush)?;
        Ok(verified?)
    }

    fn seal(&self, job: &Job<'_>, tally: &Tally) -> Result<(), InstallError> {
        let Ready { member, planned, disk } = self;
        seal::seal(&member.envelope, disk, &planned.layout, job.purpose, tally)?;
        if job.purpose == Purpose::Start {
            let slot = member.slot(job, ReceiptState::Installed)?;
            seal::write_durably(member.target, receipt::START, &slot, tally)?;
        }
        if let Err(error) = member.target.reread_table() {
            // The installed OS reads it itself; a mount from here finds out.
            job.report.say(&format!("the kernel keeps the old partition table: {error}"));
        }
        Ok(())
    }
}
