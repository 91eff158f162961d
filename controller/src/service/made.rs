//! Images that machines make: what they tell of it, and what is on record then.

use std::collections::BTreeMap;

use wire::admin::{RunState, UnixMs};
use wire::api::Made;
use wire::{Configuration, RunId};

use super::events::unknown_machine;
use super::{Controller, ControllerError, advance};
use crate::build::{Built, Ending, LINES_MAX, Record, shown};
use crate::db::{Connection, DbError, build, event, machine, run};
use crate::state::{Report, Run};

/// By this its provenance names the machine that made an image.
pub(super) const MACHINE: &str = "machine";

impl Controller {
    /// Names and records the image that a run has made, which is in the store. The
    /// same once more changes nothing.
    pub async fn made(&self, made: &Made, now: UnixMs) -> Result<(), ControllerError> {
        crate::limits::boot(&made.boot).map_err(ControllerError::Refused)?;
        // One at a time: what is recorded last is what the name means. The store is
        // asked without holding the right to write.
        let _naming = self.naming.lock().await;
        let told = asked(&mut *self.db.read().await?, made).await?;
        let Told::Now(_, configuration) = told else { return Ok(()) };
        let reference = configuration.reference();
        match self.images.name(&made.image, &reference).await {
            Ok(true) => self.record_made(made, now).await,
            Ok(false) => Err(ControllerError::Conflict(format!(
                "the store does not have {} to be {reference}: send the image first",
                made.image.short()
            ))),
            Err(source) => Err(ControllerError::Images { reference, source }),
        }
    }

    async fn record_made(&self, made: &Made, now: UnixMs) -> Result<(), ControllerError> {
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        let Told::Now(run, configuration) = asked(c, made).await? else { return Ok(()) };
        let id = &made.machine;
        let mut record = machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
        let changes = advance(c, &mut record, &run, Report::Made, now).await?;
        let changes = changes.ok_or_else(|| over(&run.id))?;
        record.last_seen = now;
        machine::put(c, &record).await?;
        let built = Built { image: made.image, provenance: provenance(&run) };
        let (ending, began) = (Ending::Built(built), run.created);
        let reference = configuration.reference();
        build::put(c, &Record { configuration, ending, began, ended: now }).await?;
        let line = format!("{reference} is in the store ({})", made.image.short());
        event::note(c, id, Some(&run.id), &[line], now).await?;
        transaction.commit().await?;
        self.note(Some(&run), &changes);
        self.announce();
        Ok(())
    }
}

/// What a machine tells by it.
enum Told {
    /// What it told before.
    Before,
    /// That this run made what it is for.
    Now(Box<Run>, Configuration),
}

/// Whether the run that is said to have made an image is one that does.
async fn asked(c: &mut Connection, made: &Made) -> Result<Told, ControllerError> {
    let Made { machine: id, boot, run: run_id, attempt, image } = made;
    let record = machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
    let run = run::get(c, run_id).await?.filter(|run| run.machine == *id);
    let Some(run) = run else {
        let text = format!("machine {id} has no run {run_id}: check in again");
        return Err(ControllerError::Missing(text));
    };
    let Some(configuration) = run.target.makes.clone() else {
        let text = format!("run {run_id} installs an image, it does not make one");
        return Err(ControllerError::Conflict(text));
    };
    if run.state == RunState::Succeeded {
        let known = build::get(c, &configuration.key).await?;
        let same = known.is_some_and(|known| match known.ending {
            Ending::Built(built) => built.image == *image && built.provenance == provenance(&run),
            Ending::Failed { .. } => false,
        });
        return if same { Ok(Told::Before) } else { Err(over(run_id)) };
    }
    if run.state.is_over() || record.run.as_ref() != Some(run_id) {
        return Err(over(run_id));
    }
    if (run.attempt, &run.boot) != (*attempt, boot) {
        let now = run.attempt;
        let text = format!(
            "run {run_id} is at attempt {now}, and this is of attempt {attempt} or another boot: \
             check in again"
        );
        return Err(ControllerError::Conflict(text));
    }
    Ok(Told::Now(Box::new(run), configuration))
}

fn over(run: &RunId) -> ControllerError {
    ControllerError::Conflict(format!(
        "run {run} is over, and another image was made or something else is wanted: check in again"
    ))
}

fn provenance(run: &Run) -> BTreeMap<String, String> {
    let notes = [
        (MACHINE, run.machine.to_string()),
        ("run", run.id.to_string()),
        ("base", run.target.system.image.to_string()),
        ("base.reference", run.target.system.reference.to_string()),
    ];
    notes.map(|(name, value)| (name.to_owned(), value)).into()
}

/// An image could not be made: nobody is told to make it until somebody says so.
pub(super) async fn failed(c: &mut Connection, run: &Run, now: UnixMs) -> Result<(), DbError> {
    let Some(configuration) = run.target.makes.clone() else { return Ok(()) };
    let cause = run.cause.as_deref().unwrap_or("its agent did not say why");
    let first = shown(cause.lines().next().unwrap_or_default());
    let Run { id, machine, attempt, .. } = run;
    let cause = format!("machine {machine} tried {attempt} times (run {id}): {first}");
    let lines = u32::try_from(LINES_MAX).unwrap_or(u32::MAX);
    let log = event::last_lines(c, run, lines).await?;
    let log = log.iter().map(|line| shown(line)).collect();
    let ending = Ending::Failed { cause, log };
    build::put(c, &Record { configuration, ending, began: run.created, ended: now }).await
}
