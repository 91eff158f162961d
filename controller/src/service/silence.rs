//! Machines of which nothing is heard any more in the middle of a run.

use wire::MachineId;
use wire::admin::{RunState, UnixMs};

use super::admin::current;
use super::{Controller, ControllerError, advance};
use crate::db::{event, machine, run};
use crate::state::{Report, SILENCE_MS_MAX};

impl Controller {
    /// Ends the attempts of machines of which nothing was heard for too long, so that
    /// no run stays under way for ever. To be called every minute or so.
    pub async fn end_silent_attempts(&self, now: UnixMs) -> Result<(), ControllerError> {
        let then = now.saturating_sub(SILENCE_MS_MAX);
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
        let Some(before) = current(c, &record).await? else { return Ok(()) };
        let silence = Report::Silent(now.saturating_sub(record.last_seen));
        let changes = advance(c, &mut record, &before, silence, now).await?;
        let Some(changes) = changes else { return Ok(()) };
        machine::put(c, &record).await?;
        let cause = changes.run.as_ref().and_then(|run| run.cause.clone());
        event::note(c, id, Some(&before.id), &Vec::from_iter(cause), now).await?;
        transaction.commit().await?;
        self.note(Some(&before), &changes);
        self.announce();
        Ok(())
    }
}
