//! Bringing an image onto a disk.
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
use wire::{DeployOrder, EventKind, MachineId, Receipt, ReceiptState, Step};

use crate::progress::size;
use crate::receipt::{self, ReceiptError};
use crate::report::{Report, Tally};
use crate::target::Target;

/// What an installation needs.
pub struct Job<'a> {
    /// What to install.
    pub order: &'a DeployOrder,
    /// Whom the controller says this machine is.
    pub machine: &'a MachineId,
    /// Its envelope.
    pub envelope: Envelope,
    /// The disk, for people.
    pub disk: String,
    /// What tells the disk from every other.
    pub identity: Option<String>,
    /// The disk.
    pub target: &'a dyn Target,
    /// Where the image comes from.
    pub client: &'a Client,
    /// Where to say what happens.
    pub report: &'a Report,
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

/// What the first step finds out.
struct Planned {
    layout: Layout,
    image: Image,
    plan: Plan,
    /// Whether the disk has a receipt, of whatever state.
    had_receipt: bool,
}

/// Installs. Events tell each step.
pub fn install(job: &Job<'_>) -> Result<(), InstallError> {
    let report = job.report;
    let planned = report.step(Step::Plan, |tally| job.plan(tally))?;
    let disk = Withheld::new(job.target, &planned.layout);
    report.step(Step::Transfer, |tally| job.transfer(&planned, &disk, tally))?;
    report.step(Step::Verify, |_| {
        let verified = verify::verify(&planned.image, &disk, report);
        // What is cached must not look right to the next try when the medium is not.
        job.target.drop_cache().map_err(InstallError::Flush)?;
        verified.map_err(InstallError::from)
    })?;
    report.step(Step::Seal, |tally| job.seal(&planned, &disk, tally))
}

impl Job<'_> {
    fn plan(&self, tally: &Tally) -> Result<Planned, InstallError> {
        let layout = Layout::new(&self.envelope, self.target)?;
        let image = self.counting(tally, || self.client.image(self.envelope.clone()));
        let image = image.map_err(InstallError::Image)?;
        self.target.drop_cache().map_err(InstallError::Flush)?;
        let had_receipt = self.has_receipt()?;
        let plan =
            Plan::make(&image, &Withheld::new(self.target, &layout), had_receipt, self.report)?;
        self.report.say(&format!(
            "plan: {} onto {}: {} of content, {} already there, {} to fetch in {} requests",
            self.order.system.reference,
            self.disk,
            size(plan.image_bytes),
            size(plan.present_bytes),
            size(plan.fetch_bytes()),
            plan.requests.len(),
        ));
        self.report.event(EventKind::Planned {
            image: self.order.system.image,
            disk: self.disk.clone(),
            image_bytes: plan.image_bytes,
            present_bytes: plan.present_bytes,
            fetch_bytes: plan.fetch_bytes(),
            requests: plan.requests.len() as u64,
        });
        Ok(Planned { layout, image, plan, had_receipt })
    }

    fn transfer(
        &self,
        planned: &Planned,
        disk: &Withheld<'_>,
        tally: &Tally,
    ) -> Result<(), InstallError> {
        let slot = self.slot(ReceiptState::Installing)?;
        seal::begin(self.target, &planned.layout, &slot, planned.had_receipt, tally)?;
        self.counting(tally, || {
            let Planned { image, plan, .. } = planned;
            transfer::transfer(self.client, image, plan, disk, self.report, tally)
        })?;
        self.target.flush().map_err(InstallError::Flush)
    }

    fn seal(
        &self,
        planned: &Planned,
        disk: &Withheld<'_>,
        tally: &Tally,
    ) -> Result<(), InstallError> {
        seal::seal(&self.envelope, disk, &planned.layout, tally)?;
        let slot = self.slot(ReceiptState::Installed)?;
        seal::write_durably(self.target, receipt::START, &slot, tally)?;
        if let Err(error) = self.target.reread_table() {
            // The installed OS reads it itself; only a mount from here would need it.
            self.report.say(&format!("the kernel keeps the old partition table: {error}"));
        }
        Ok(())
    }

    /// A receipt of a newer version stops the installation.
    fn has_receipt(&self) -> Result<bool, InstallError> {
        let mut slot = vec![0; receipt::BYTES];
        let offset = receipt::START;
        let read = self.target.read_at(offset, &mut slot);
        read.map_err(|source| MakePlanError::Read { offset, source })?;
        Ok(receipt::found(&slot)?.is_some())
    }

    fn slot(&self, state: ReceiptState) -> Result<Vec<u8>, ReceiptError> {
        receipt::encode(&Receipt {
            version: Receipt::VERSION,
            state,
            image: self.order.system.image,
            reference: self.order.system.reference.clone(),
            run: self.order.run.clone(),
            machine: self.machine.clone(),
            disk: self.identity.clone(),
            disk_bytes: self.target.bytes(),
        })
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
