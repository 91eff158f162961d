//! Agents tell what happened.

use std::collections::BTreeSet;

use wire::admin::{MachineState, UnixMs};
use wire::api::{EventBatch, EventsSeen};
use wire::{Event, EventKind, MachineId, Outcome, RunId};

use super::{Controller, ControllerError, advance};
use crate::db::machine::Machine;
use crate::db::{Connection, event, machine, run};
use crate::limits;
use crate::state::{Changes, Report, Run};

impl Controller {
    /// Records events in the order of their numbers and says up to which
    /// number all are durable. One that was recorded before is passed over; of
    /// those after one missing in the batch nothing is recorded, so that they
    /// come again.
    ///
    /// An agent keeps what is not acknowledged and sends it first. What is
    /// missing before a batch was therefore acknowledged once, and its record
    /// lost: the log says so and goes on, for nobody can send it again.
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
        // A boot that is not known checked in before the records were lost.
        event::begin(c, id, boot, now).await?;
        let recorded = event::seq(c, id, boot).await?;
        let (new, repeated) = in_order(events, recorded);
        let runs = runs_of(c, id, new).await?;
        let new: Vec<Event> = new.iter().map(|event| placed(event, &runs)).collect();
        let lost = lost(new.first(), recorded);
        let mut seq = recorded;

        let mut changed = Vec::new();
        let entries: Vec<Event> = lost.iter().chain(&new).cloned().map(shortened).collect();
        event::add(c, id, record.records + 1, boot, &entries, now).await?;
        for item in &entries {
            record.records += 1;
            seq = item.seq;
            changed.extend(told(c, &mut record, item, now).await?);
        }
        event::put_seq(c, id, boot, seq).await?;
        record.last_seen = now;
        machine::put(c, &record).await?;
        transaction.commit().await?;

        for (before, changes) in &changed {
            self.note(Some(before), changes);
        }
        if let Some(Event { seq: last, .. }) = lost {
            let first = recorded + 1;
            tracing::warn!(machine = %id, boot, first, last, "events lost: acknowledged, not recorded");
            self.metrics.events_lost.inc_by(last - recorded);
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

/// Most bytes of a text that is kept of an event.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// An event whose text is no longer than what people read: what a step failed of
/// is in lists of runs and in answers to agents.
fn shortened(mut event: Event) -> Event {
    let text = match &mut event.kind {
        EventKind::Log { line: text }
        | EventKind::Planned { disk: text, .. }
        | EventKind::StepEnded {
            outcome: Outcome::Failed { cause: text } | Outcome::Skipped { reason: text },
            ..
        } => text,
        _ => return event,
    };
    if text.len() > TEXT_BYTES_MAX {
        let is_end = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=TEXT_BYTES_MAX).rev().find(is_end).unwrap_or_default();
        let rest = text.len() - end;
        text.truncate(end);
        text.push_str(&format!(" … and {rest} bytes more"));
    }
    event
}

/// Those that follow on each other without a gap, and how many before them are
/// recorded already. Only the first of a batch may be beyond what is recorded.
fn in_order(events: &[Event], recorded: u64) -> (&[Event], usize) {
    let repeated = events.iter().take_while(|event| event.seq <= recorded).count();
    let rest = &events[repeated..];
    let ascending = events.is_sorted_by(|one, next| one.seq < next.seq);
    let next = match rest.first() {
        Some(first) if repeated == 0 && ascending => first.seq,
        _ => recorded + 1,
    };
    let follows = |(event, expected): &(&Event, u64)| event.seq == *expected;
    let new = rest.iter().zip(next..).take_while(follows).count();
    (&rest[..new], repeated)
}

/// The entry that takes the place of the events between what is recorded and
/// the first new one, where there are any: it has the number of the last.
fn lost(first: Option<&Event>, recorded: u64) -> Option<Event> {
    let first = first.filter(|first| first.seq > recorded + 1)?;
    let seq = first.seq - 1;
    let line = format!(
        "events {} to {seq} of this boot are lost: the controller had them, and its records were \
         lost or restored from a backup since",
        recorded + 1
    );
    Some(Event { seq, kind: EventKind::Log { line }, ..first.clone() })
}

/// The runs of this machine that events name. Others were lost with the
/// records, or belong to what this machine was taken for before that.
async fn runs_of(
    c: &mut Connection,
    machine: &MachineId,
    events: &[Event],
) -> Result<BTreeSet<RunId>, ControllerError> {
    let named: BTreeSet<&RunId> = events.iter().filter_map(|event| event.run.as_ref()).collect();
    let mut runs = BTreeSet::new();
    for id in named {
        if run::get(c, id).await?.is_some_and(|run| run.machine == *machine) {
            runs.insert(id.clone());
        } else {
            tracing::warn!(%machine, run = %id, "events of a run that this machine does not have");
        }
    }
    Ok(runs)
}

/// An event as it is recorded: of no run, where its run is none of these.
fn placed(event: &Event, runs: &BTreeSet<RunId>) -> Event {
    match &event.run {
        Some(run) if !runs.contains(run) => Event { run: None, attempt: 0, ..event.clone() },
        _ => event.clone(),
    }
}

/// Lets an event change its run, where it is the machine's current one.
async fn told(
    c: &mut Connection,
    machine: &mut Machine,
    event: &Event,
    now: UnixMs,
) -> Result<Option<(Run, Changes)>, ControllerError> {
    if machine.state == MachineState::Retired {
        return Ok(None);
    }
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
    let changes = advance(c, machine, &current, report, now).await?;
    Ok(changes.map(|changes| (current, changes)))
}

pub(super) fn unknown_machine(id: &MachineId) -> ControllerError {
    ControllerError::Missing(format!("there is no machine {id}: `ingot machine ls` lists all"))
}
