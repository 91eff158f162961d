//! What the policy says of a machine, and why.

use wire::admin::{MachineState, UnixMs, Why};
use wire::{MachineId, Order};

use super::admin::current;
use super::events::unknown_machine;
use super::turn::{self, Beginner};
use super::{Controller, ControllerError};
use crate::db::machine::Machine;
use crate::db::{attachment, machine, parsed};
use crate::policy::Limit;
use crate::state::{Changes, Recorded, Report, Run, Wanted, reconcile};

impl Controller {
    /// What the policy says of a machine, and why.
    pub async fn why(&self, id: &MachineId, now: UnixMs) -> Result<Why, ControllerError> {
        let mut transaction = self.db.read().await?;
        let c = &mut *transaction;
        let record = machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
        let run = current(c, &record).await?;
        let facts = attachment::facts_of(c, &record).await?;
        drop(transaction);
        let policy = self.policy.current();
        let wanted = self.wanted(&policy, &record, &facts).await?;
        let mut rules = policy.why(&facts);
        self.trace_builds(&policy, &facts, &mut rules).await?;
        for (rule, trace) in policy.rules().iter().zip(&mut rules) {
            if let (Some(limit), true) = (&rule.limit, trace.matched) {
                let mut transaction = self.db.read().await?;
                let told = turn::limits::told(&mut transaction, &rule.name, limit).await?;
                trace.limit = Some(told);
            }
        }
        let winner = policy.decide(&facts);
        // What an operator gave a machine is no rule's, and limited by none.
        let decides = winner.filter(|_| record.deploy.is_none());
        let limit = decides.and_then(|rule| rule.limit.as_ref());
        Ok(Why {
            machine: id.clone(),
            rules,
            questions: policy.why_asked(&facts, &record.answers),
            winner: winner.map(|rule| rule.name.clone()),
            deploy: record.deploy.clone(),
            order: self.order(&record, run.as_ref(), &wanted, limit, now).await?,
        })
    }

    /// What a machine would be told now if it asked once more, in words.
    async fn order(
        &self,
        record: &Machine,
        run: Option<&Run>,
        wanted: &Wanted,
        limit: Option<&Limit>,
        now: UnixMs,
    ) -> Result<String, ControllerError> {
        let fresh = parsed("r-none", "a name")?;
        let asks = |wanted: &Wanted| {
            let boot = run.map_or("", |run| run.boot.as_str());
            let disks = &record.inventory.disks;
            let report = Report::CheckIn { boot, disks, wanted, fresh: &fresh };
            reconcile(
                Recorded { machine: &record.id, held: record.held.as_deref(), run },
                report,
                now,
            )
        };
        let mut changes = asks(wanted);
        if changes.as_ref().is_some_and(|changes| changes.begin(&fresh)) {
            let asking = Beginner { id: &record.id, run, wanted, limit };
            let ahead = turn::ahead(&mut *self.db.read().await?, asking, now).await?;
            if let Some(reason) = ahead.waits {
                changes = asks(&Wanted::Hold(reason));
            }
        }
        Ok(changes.map_or_else(String::new, |changes| words(&changes)))
    }
}

fn words(changes: &Changes) -> String {
    match &changes.order {
        Some(Order::Deploy(order)) => format!("deploy {order}"),
        Some(Order::Make(order)) => {
            let (made, base) = (order.making.configuration.reference(), &order.base);
            format!("make {made} out of {base}")
        }
        Some(Order::Hold(hold)) if changes.machine.0 == MachineState::Failed => {
            format!("fail: {}", hold.reason)
        }
        Some(Order::Hold(hold)) => format!("hold: {}", hold.reason),
        Some(Order::Ask(_) | Order::Unknown) | None => String::new(),
    }
}
