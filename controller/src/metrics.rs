//! What the controller counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use wire::admin::RunState;
use wire::{Order, api};

use crate::boot::BootDecision;
use crate::state::Run;

/// Counters since the start of the process.
#[derive(Debug, Default, Clone)]
pub struct Metrics {
    /// Check-ins answered.
    pub check_ins: Counter,
    /// Machines never seen before.
    pub machines_new: Counter,
    /// Orders to deploy given.
    pub orders_deploy: Counter,
    /// Orders to make an image given.
    pub orders_make: Counter,
    /// Orders to hold given.
    pub orders_hold: Counter,
    /// Events recorded.
    pub events: Counter,
    /// Events that were recorded before.
    pub events_repeated: Counter,
    /// Events acknowledged once that are not in the records.
    pub events_lost: Counter,
    /// Events not taken because one before them is missing.
    pub events_after_gap: Counter,
    /// Machines sent to the loader.
    pub boots_loader: Counter,
    /// Machines sent to their disk.
    pub boots_disk: Counter,
    /// Runs that installed an image.
    pub runs_succeeded: Counter,
    /// Runs that made an image.
    pub runs_made: Counter,
    /// Runs that found their image installed.
    pub runs_already_installed: Counter,
    /// Attempts that failed.
    pub attempts_failed: Counter,
    /// Runs that failed for good.
    pub runs_failed: Counter,
    /// Images that were built.
    pub builds_succeeded: Counter,
    /// Builds that failed.
    pub builds_failed: Counter,
    /// Cards of which it was recorded where they are.
    pub attachments: Counter,
    /// Cards of which it was not, because too many came at once.
    pub attachments_dropped: Counter,
    /// Transactions: changes that came at the same time share one.
    pub commits: Counter,
    /// Requests refused or failed.
    pub errors: Counter,
}

impl Metrics {
    /// Names the counters in a registry, all beginning with `controller_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("controller");
        let counters = [
            ("check_ins", "Check-ins answered", &self.check_ins),
            ("machines_new", "Machines never seen before", &self.machines_new),
            ("orders_deploy", "Orders to deploy given", &self.orders_deploy),
            ("orders_make", "Orders to make an image given", &self.orders_make),
            ("orders_hold", "Orders to hold given", &self.orders_hold),
            ("events", "Events recorded", &self.events),
            ("events_repeated", "Events that were recorded before", &self.events_repeated),
            ("events_lost", "Events acknowledged once and not recorded", &self.events_lost),
            ("events_after_gap", "Events not taken, one before is missing", &self.events_after_gap),
            ("boots_loader", "Machines sent to the loader", &self.boots_loader),
            ("boots_disk", "Machines sent to their disk", &self.boots_disk),
            ("runs_succeeded", "Runs that installed an image", &self.runs_succeeded),
            ("runs_made", "Runs that made an image", &self.runs_made),
            ("runs_already_installed", "Runs that found it there", &self.runs_already_installed),
            ("attempts_failed", "Attempts that failed", &self.attempts_failed),
            ("runs_failed", "Runs that failed for good", &self.runs_failed),
            ("builds_succeeded", "Images that were built", &self.builds_succeeded),
            ("builds_failed", "Builds that failed", &self.builds_failed),
            ("attachments", "Places of cards in the network, recorded", &self.attachments),
            ("attachments_dropped", "Of too many at once", &self.attachments_dropped),
            ("commits", "Transactions, shared by changes", &self.commits),
            ("errors", "Requests refused or failed", &self.errors),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }

    pub(crate) fn checked_in(&self, answer: &api::CheckedIn, new: bool) {
        self.check_ins.inc();
        if new {
            self.machines_new.inc();
        }
        match answer.order {
            Order::Deploy(_) => self.orders_deploy.inc(),
            Order::Make(_) => self.orders_make.inc(),
            _ => self.orders_hold.inc(),
        };
    }

    pub(crate) fn booted(&self, decision: BootDecision) {
        match decision {
            BootDecision::Loader => self.boots_loader.inc(),
            BootDecision::Disk => self.boots_disk.inc(),
        };
    }

    /// Counts what a run became.
    pub(crate) fn changed(&self, before: Option<&Run>, after: &Run) {
        if before.is_some_and(|run| run.id == after.id && run.state == after.state) {
            return;
        }
        match after.state {
            RunState::Succeeded if after.target.makes.is_some() => self.runs_made.inc(),
            RunState::Succeeded => self.runs_succeeded.inc(),
            RunState::AlreadyInstalled => self.runs_already_installed.inc(),
            RunState::Retrying => self.attempts_failed.inc(),
            RunState::Failed => {
                self.attempts_failed.inc();
                self.runs_failed.inc()
            }
            _ => return,
        };
    }
}
