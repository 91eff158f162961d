//! Machines of which nothing is heard any more in the middle of a run.

use wire::MachineId;
use wire::admin::{RunState, UnixMs};

use super::{Controller, ControllerError, apply, turn};
use crate::db::{event, machine, run};
use crate::state::{Recorded, Report, Run, reconcile};

/// Machines that were heard of this lately are not looked at.
const LATELY_MS: u64 = 60_000;

impl Controller {
    /// Ends the attempts of machines of which nothing was heard for too long, so that
    /// no run stays under way for ever. To be called every minute or so.
    pub async fn end_silent_attempts(&self, now: UnixMs) -> Result<(), ControllerError> {
        let then = now.saturating_sub(LATELY_MS);
        let runs = run::silent_since(&mut *self.db.read().await?, then).await?;
        for run in runs {
            // One that waits for its machine may wait.
            let is_under_way = run.state != RunState::Retrying;
            if is_under_way && now.saturating_sub(run.changed) >= run.patience_ms() {
                self.end_silent_attempt(&run.machine, now).await?;
            }
        }
        Ok(())
    }

    async fn end_silent_attempt(&self, id: &MachineId, now: UnixMs) -> Result<(), ControllerError> {
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        // It may have been heard of since.
        let Some(mut record) = machine::get(c, id).await? else { return Ok(()) };
        let Some(name) = record.run.clone() else { return Ok(()) };
        let Some(before) = run::get(c, &name).await? else { return Ok(()) };
        let silence = turn::silence(c, &before, now).await?;
        let held = record.held.clone();
        let recorded = Recorded { machine: id, held: held.as_deref(), run: Some(&before) };
        let Some(changes) = reconcile(recorded, Report::Silent(silence), now) else {
            return Ok(());
        };
        apply(c, &mut record, Some(&before), &changes, now).await?;
        machine::put(c, &record).await?;
        let cause = changes.run.as_ref().and_then(|run: &Run| run.cause.clone());
        event::note(c, id, Some(&name), &Vec::from_iter(cause), now).await?;
        transaction.commit().await?;
        self.note(Some(&before), &changes);
        self.announce();
        Ok(())
    }
}
