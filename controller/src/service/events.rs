//! Agents tell what happened.

use std::collections::BTreeSet;

use wire::admin::UnixMs;
use wire::api::{EventBatch, EventsSeen};
use wire::{Event, EventKind, MachineId, RunId};

use super::{Controller, ControllerError, apply};
use crate::db::machine::Machine;
use crate::db::{Connection, event, machine, run};
use crate::limits;
use crate::state::{Changes, Recorded, Report, Run, reconcile};

impl Controller {
    /// Records events in the order of their numbers and says up to which
    /// number all are durable. One that was recorded before is passed over; of
    /// those after a missing one nothing is recorded, so that they come again.
    pub async fn events(
        &self,
        batch: &EventBatch,
        now: UnixMs,
    ) -> Result<EventsSeen, ControllerError> {
        limits::events(batch).map_err(ControllerError::Refused)?;
        let EventBatch { machine: id, boot, events } = batch;
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        let mut record = machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
        let recorded = event::seq(c, id, boot).await?.ok_or_else(|| unknown_boot(id, boot))?;
        let (new, repeated) = in_order(events, recorded);
        let mut seq = recorded;
        check_runs(c, id, new).await?;

        let mut changed = Vec::new();
        event::add(c, id, record.records + 1, boot, new, now).await?;
        for item in new {
            record.records += 1;
            seq = item.seq;
            changed.extend(advance(c, &mut record, item, now).await?);
        }
        event::put_seq(c, id, boot, seq).await?;
        record.last_seen = now;
        machine::put(c, &record).await?;
        transaction.commit().await?;

        for (before, changes) in &changed {
            self.note(Some(before), changes);
        }
        self.metrics.events.inc_by(u64::try_from(new.len()).unwrap_or_default());
        self.metrics.events_repeated.inc_by(u64::try_from(repeated).unwrap_or_default());
        let gap = events.len() - repeated - new.len();
        self.metrics.events_after_gap.inc_by(u64::try_from(gap).unwrap_or_default());
        if !new.is_empty() {
            self.announce();
        }
        Ok(EventsSeen { seq })
    }
}

/// Those that follow on what is recorded without a gap, and how many before
/// them are recorded already.
fn in_order(events: &[Event], recorded: u64) -> (&[Event], usize) {
    let repeated = events.iter().take_while(|event| event.seq <= recorded).count();
    let rest = &events[repeated..];
    let follows = |(event, expected): &(&Event, u64)| event.seq == *expected;
    let new = rest.iter().zip(recorded + 1..).take_while(follows).count();
    (&rest[..new], repeated)
}

/// Refuses reports for runs that this machine does not have.
async fn check_runs(
    c: &mut Connection,
    machine: &MachineId,
    events: &[Event],
) -> Result<(), ControllerError> {
    let runs: BTreeSet<&RunId> = events.iter().filter_map(|event| event.run.as_ref()).collect();
    for id in runs {
        match run::get(c, id).await? {
            Some(run) if run.machine == *machine => {}
            Some(_) => {
                let text = format!("run {id} is not of machine {machine}: check in again");
                return Err(ControllerError::Missing(text));
            }
            None => {
                let text = format!("there is no run {id}: check in again for an order");
                return Err(ControllerError::Missing(text));
            }
        }
    }
    Ok(())
}

/// Lets an event change its run, where it is the machine's current one.
async fn advance(
    c: &mut Connection,
    machine: &mut Machine,
    event: &Event,
    now: UnixMs,
) -> Result<Option<(Run, Changes)>, ControllerError> {
    let report = match &event.kind {
        EventKind::StepStarted { step } => Report::Started { attempt: event.attempt, step: *step },
        EventKind::StepEnded { step, outcome, .. } => {
            Report::Ended { attempt: event.attempt, step: *step, outcome }
        }
        _ => return Ok(None),
    };
    let Some(id) = event.run.as_ref().filter(|run| machine.run.as_ref() == Some(run)) else {
        return Ok(None);
    };
    let Some(current) = run::get(c, id).await? else { return Ok(None) };
    let id = machine.id.clone();
    let held = machine.held.clone();
    let recorded = Recorded { machine: &id, held: held.as_deref(), run: Some(&current) };
    let Some(changes) = reconcile(recorded, report, now) else { return Ok(None) };
    apply(c, machine, Some(&current), &changes).await?;
    Ok(Some((current, changes)))
}

pub(super) fn unknown_machine(id: &MachineId) -> ControllerError {
    ControllerError::Missing(format!("there is no machine {id}: `ingot machine ls` lists all"))
}

fn unknown_boot(id: &MachineId, boot: &str) -> ControllerError {
    ControllerError::Missing(format!(
        "boot {boot} of machine {id} never checked in: check in before reporting events"
    ))
}
