//! Whether what the policy wants of a machine may begin now: others may be at it.
//! Looked at in the transaction that records the beginning, so that of two
//! machines that ask at once the second sees the first.

pub(super) mod limits;

use std::collections::BTreeSet;

use wire::admin::UnixMs;
use wire::{MachineId, Making};

use crate::build::Record;
use crate::db::{Connection, DbError, build, machine, run};
use crate::policy::Limit;
use crate::state::{HOLD_RETRY_SECS, Make, Run, Wanted, gone};

/// How long nothing may be heard of a machine that makes an image, beside what its
/// script may take, before another one makes it.
const SILENCE_MS_MAX: u64 = 10 * 60 * 1000;

/// What a machine that would begin is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// That it may.
    Free,
    /// That it waits, for this reason.
    Waits(String),
    /// Nothing yet: what it would begin with was looked at before it changed.
    Stale,
}

/// Who comes before a machine that would begin.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What it waits for.
    pub waits: Option<String>,
    /// Runs of machines that were not heard of for too long to be waited for.
    gone: Vec<Run>,
}

/// A machine that would begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginner<'a> {
    /// The machine.
    pub id: &'a MachineId,
    /// Its run so far.
    pub run: Option<&'a Run>,
    /// What it would begin with.
    pub wanted: &'a Wanted,
    /// The limit of the rule that says so.
    pub limit: Option<&'a Limit>,
}

/// Looks who comes before a machine. Changes nothing.
pub(super) async fn ahead(
    c: &mut Connection,
    asking: Beginner<'_>,
    now: UnixMs,
) -> Result<Ahead, DbError> {
    let target = match asking.wanted {
        Wanted::Deploy(target) => target,
        Wanted::Make(make) => &make.target,
        Wanted::Hold(_) | Wanted::Fail(_) => return Ok(Ahead::default()),
    };
    let mut ahead = match asking.limit {
        Some(limit) => limits::ahead(c, asking, &target.rule, limit, now).await?,
        None => Ahead::default(),
    };
    if let (Wanted::Make(make), None) = (asking.wanted, &ahead.waits) {
        let Ahead { waits, gone } = makers(c, asking.id, make, now).await?;
        ahead.waits = waits;
        ahead.gone.extend(gone);
    }
    Ok(ahead)
}

/// A machine begins, unless somebody comes before it.
pub(super) async fn take(
    c: &mut Connection,
    asking: Beginner<'_>,
    seen: Option<&Record>,
    now: UnixMs,
) -> Result<Turn, DbError> {
    if let Wanted::Make(make) = asking.wanted
        && build::get(c, &make.making.configuration.key).await?.as_ref() != seen
    {
        return Ok(Turn::Stale);
    }
    let Ahead { waits, gone } = ahead(c, asking, now).await?;
    if let Some(reason) = waits {
        return Ok(Turn::Waits(reason));
    }
    let mut given_up = BTreeSet::new();
    for run in gone.iter().filter(|run| given_up.insert(&run.id)) {
        give_up(c, run, asking.id, now).await?;
    }
    Ok(Turn::Free)
}

/// One machine makes an image. If it was not heard of for too long it does not keep
/// the others from it.
async fn makers(
    c: &mut Connection,
    id: &MachineId,
    make: &Make,
    now: UnixMs,
) -> Result<Ahead, DbError> {
    let mut others = run::makers(c, &make.making.configuration.key).await?;
    others.retain(|run| run.machine != *id);
    for run in &others {
        let silence = silence(c, run, now).await?;
        if silence < u64::from(make.making.timeout_secs) * 1000 + SILENCE_MS_MAX {
            return Ok(Ahead { waits: Some(waits(make, run, silence)), gone: Vec::new() });
        }
    }
    Ok(Ahead { waits: None, gone: others })
}

fn waits(make: &Make, run: &Run, silence: u64) -> String {
    let Make { target, making: Making { configuration, .. }, .. } = make;
    format!(
        "rule {:?} wants {} ({configuration}), which was not made yet: machine {} makes it now \
         (run {}, attempt {}, last heard of {} s ago), and this one gets it then; it asks again \
         every {HOLD_RETRY_SECS} s",
        target.rule,
        configuration.reference(),
        run.machine,
        run.id,
        run.attempt,
        silence / 1000
    )
}

/// How long nothing was heard of the machine of a run.
pub(super) async fn silence(c: &mut Connection, run: &Run, now: UnixMs) -> Result<u64, DbError> {
    let record = machine::get(c, &run.machine).await?;
    Ok(now.saturating_sub(record.map_or(run.changed, |record| record.last_seen)))
}

/// The run of a machine that was not heard of ends: this one takes its turn.
async fn give_up(
    c: &mut Connection,
    run: &Run,
    next: &MachineId,
    now: UnixMs,
) -> Result<(), DbError> {
    let Some(mut record) = machine::get(c, &run.machine).await? else { return Ok(()) };
    let secs = now.saturating_sub(record.last_seen) / 1000;
    let reason = format!(
        "nothing was heard of this machine for {secs} s while it was at {}, and machine {next} \
         took its turn",
        run.target
    );
    tracing::warn!(machine = %run.machine, run = %run.id, secs, %next, "a run is given up");
    let changes = gone(run, reason, now);
    super::apply(c, &mut record, Some(run), &changes, now).await?;
    machine::put(c, &record).await
}
