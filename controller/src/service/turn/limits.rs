//! The limits of rules: how many machines, how many at a time, and when. A run that
//! began is not held up by them, nor a machine that has its images.

use wire::MachineId;
use wire::admin::{RunState, UnixMs};

use super::{Ahead, Beginner, silence};
use crate::db::{Connection, DbError, run, to_word};
use crate::policy::Limit;
use crate::state::{HOLD_RETRY_SECS, Run};

/// How many machines a reason names.
const NAMED: usize = 3;

/// Who comes before a machine by the limit of its rule.
pub(super) async fn ahead(
    c: &mut Connection,
    asking: Beginner<'_>,
    rule: &str,
    limit: &Limit,
    now: UnixMs,
) -> Result<Ahead, DbError> {
    let waits = |why: String| {
        let waits =
            format!("rule {rule:?} {why}; this machine asks again every {HOLD_RETRY_SECS} s");
        Ok(Ahead { waits: Some(waits), gone: Vec::new() })
    };
    if let Some(why) = limit.closed(now) {
        return waits(why);
    }
    let counts = |run: &Run| run.target.rule == rule && run.state != RunState::Superseded;
    if let Some(max) = limit.machines
        && !asking.run.is_some_and(counts)
    {
        let holders = run::holders(c, rule, max).await?;
        if holders.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
            let names = listed(&holders.iter().map(MachineId::to_string).collect::<Vec<_>>());
            let have = if holders.len() == 1 { "has" } else { "have" };
            return waits(format!(
                "is for {max} machines at most (`machines` of its limit), and {names} {have} its \
                 turn"
            ));
        }
    }
    let Some(max) = limit.at_once else { return Ok(Ahead::default()) };
    let (mut first, mut gone) = (Vec::new(), Vec::new());
    for run in run::under_way(c, rule).await? {
        if run.machine == *asking.id {
            continue;
        }
        if silence(c, &run, now).await? < run.patience_ms() {
            let state = to_word(&run.state, "runs.state")?;
            first.push(format!("{} ({state})", run.machine));
        } else {
            gone.push(run);
        }
    }
    if first.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
        let come = if first.len() == 1 { "comes" } else { "come" };
        return waits(format!(
            "is for {max} machines at a time (`at-once` of its limit), and {} {come} first",
            listed(&first)
        ));
    }
    // As many as their places are needed, the oldest first.
    let places = usize::try_from(max).unwrap_or(usize::MAX);
    gone.truncate((first.len() + gone.len() + 1).saturating_sub(places));
    Ok(Ahead { waits: None, gone })
}

/// A limit in words, with how many machines there are.
pub(in crate::service) async fn told(
    c: &mut Connection,
    rule: &str,
    limit: &Limit,
) -> Result<String, DbError> {
    let mut counts = Vec::new();
    if limit.machines.is_some() {
        counts.push(format!("{} so far", run::holders(c, rule, u32::MAX).await?.len()));
    }
    if limit.at_once.is_some() {
        counts.push(format!("{} now", run::under_way(c, rule).await?.len()));
    }
    Ok(match counts.is_empty() {
        true => limit.to_string(),
        false => format!("{limit} ({})", counts.join(", ")),
    })
}

/// Names, the first of many.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
