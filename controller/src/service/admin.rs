//! Operators ask and decide.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wire::admin::{
    HoldRequest, LIST_MAX, LabelChange, LogPage, MachineDetail, MachineList, MachineState,
    MachineSummary, RunDetail, RunList, RunState, RunSummary, UnixMs,
};
use wire::{EventKind, MachineId, RunId};

use super::events::unknown_machine;
use super::steer::{chosen, in_service};
use super::steps::steps;
use super::{Controller, ControllerError};
use crate::db::event::Of;
use crate::db::machine::Machine;
use crate::db::{Connection, DbError, attachment, event, machine, run};
use crate::limits;
use crate::state::Run;

/// Records in memory at a time: one may have megabytes of inventory.
const TOGETHER: u32 = 50;

/// Runs that a machine's details list.
const MACHINE_RUNS: u32 = 10;

/// How often a log is looked at where another process may write to it too.
const LOG_LOOK: Duration = Duration::from_secs(1);

impl Controller {
    /// How many machines are in each state, and how many of the newest
    /// [`LIST_MAX`] runs.
    pub async fn states(&self) -> Result<[BTreeMap<String, u64>; 2], ControllerError> {
        let mut transaction = self.db.read().await?;
        let machines = machine::states(&mut transaction).await?;
        Ok([machines, run::states(&mut transaction, LIST_MAX).await?])
    }

    /// A page of machines, in the order of their ids: those that an expression
    /// is true of, or all. A page that has less than `limit` need not be the last.
    pub async fn machines(
        &self,
        after: Option<&MachineId>,
        limit: u32,
        on: Option<&str>,
    ) -> Result<MachineList, ControllerError> {
        let mut transaction = self.db.read().await?;
        let c = &mut *transaction;
        let (mut machines, mut next) = (Vec::new(), after.cloned());
        let mut left = limit.clamp(1, LIST_MAX);
        while left > 0 {
            let part = left.min(TOGETHER);
            let records = machine::list(c, next.as_ref(), part).await?;
            let is_last = records.len() < usize::try_from(part).unwrap_or(usize::MAX);
            next = records.last().filter(|_| !is_last).map(|record| record.id.clone());
            for record in &chosen(c, records, on).await? {
                machines.push(summary(c, record).await?);
            }
            left = if is_last { 0 } else { left - part };
        }
        Ok(MachineList { machines, next })
    }

    /// Everything about one machine.
    pub async fn machine(&self, id: &MachineId) -> Result<MachineDetail, ControllerError> {
        let mut transaction = self.db.read().await?;
        let record = machine::get(&mut transaction, id).await?;
        let record = record.ok_or_else(|| unknown_machine(id))?;
        Ok(detail(&mut transaction, record).await?)
    }

    /// Changes labels. They count from the machine's next check-in.
    pub async fn label(
        &self,
        id: &MachineId,
        change: &LabelChange,
    ) -> Result<MachineDetail, ControllerError> {
        let change = |record: &mut Machine| {
            let labels = limits::labels(std::mem::take(&mut record.labels), change);
            record.labels = labels.map_err(ControllerError::Refused)?;
            Ok(())
        };
        self.change(id, change).await
    }

    /// Lets a machine wait from its next check-in on; what it is doing is not
    /// interrupted.
    pub async fn hold(
        &self,
        id: &MachineId,
        request: &HoldRequest,
    ) -> Result<MachineDetail, ControllerError> {
        limits::reason(&request.reason).map_err(ControllerError::Refused)?;
        let change = |record: &mut Machine| {
            record.held = Some(request.reason.clone());
            if record.state != MachineState::Deploying {
                (record.state, record.reason) = (MachineState::Held, record.held.clone());
            }
            Ok(())
        };
        self.change(id, change).await
    }

    /// Ends a hold, and forgets the failed attempts of the last run and what was
    /// answered at the console: the machine begins anew at its next check-in. An
    /// image for it that could not be built is built again when it is asked for.
    pub async fn release(
        &self,
        id: &MachineId,
        now: UnixMs,
    ) -> Result<MachineDetail, ControllerError> {
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        let mut record = in_service(c, id).await?;
        // What it would get follows from its answers: those are forgotten next.
        let facts = attachment::facts_of(c, &record).await?;
        record.held = None;
        record.answers.clear();
        if record.state == MachineState::Held {
            record.reason = Some("released: it is told what to do when it checks in".to_owned());
        }
        if let Some(last) = current(c, &record).await?.filter(|run| run.state == RunState::Failed) {
            let state = RunState::Superseded;
            run::put(c, &Run { state, changed: now, ..last }).await?;
        }
        machine::put(c, &record).await?;
        let detail = detail(c, record).await?;
        transaction.commit().await?;
        self.forgive_build(id, &facts).await?;
        Ok(detail)
    }

    /// Runs of one machine or of all, newest first.
    pub async fn runs(
        &self,
        machine: Option<&MachineId>,
        limit: u32,
    ) -> Result<RunList, ControllerError> {
        let mut transaction = self.db.read().await?;
        let c = &mut *transaction;
        if let Some(id) = machine {
            machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
        }
        let runs = run::list(c, machine, limit.clamp(1, LIST_MAX)).await?;
        Ok(RunList { runs: runs.into_iter().map(run_summary).collect() })
    }

    /// Everything about one run.
    pub async fn run(&self, id: &RunId) -> Result<RunDetail, ControllerError> {
        let mut transaction = self.db.read().await?;
        let c = &mut *transaction;
        let run = run::get(c, id).await?.ok_or_else(|| unknown_run(id))?;
        let events = event::steps(c, id).await?;
        let plan = events.iter().rev().find(|e| matches!(e.kind, EventKind::Planned { .. }));
        Ok(RunDetail {
            disk: run.target.system.disk.clone(),
            start: run.target.start,
            plan: plan.map(|entry| entry.kind.clone()),
            steps: steps(&events),
            summary: run_summary(run),
        })
    }

    /// A machine's log after a record number. Waits for a first entry, at most
    /// as long as told.
    pub async fn machine_log(
        &self,
        id: &MachineId,
        since: u64,
        limit: u32,
        wait: Duration,
    ) -> Result<LogPage, ControllerError> {
        self.log(Of::Machine(id), since, limit, wait).await
    }

    /// A run's log after a record number, as [`Controller::machine_log`].
    pub async fn run_log(
        &self,
        id: &RunId,
        since: u64,
        limit: u32,
        wait: Duration,
    ) -> Result<LogPage, ControllerError> {
        self.log(Of::Run(id), since, limit, wait).await
    }

    async fn log(
        &self,
        of: Of<'_>,
        since: u64,
        limit: u32,
        wait: Duration,
    ) -> Result<LogPage, ControllerError> {
        let limit = limit.clamp(1, LIST_MAX);
        let deadline = Instant::now() + wait;
        // Before looking, so that nothing is missed between looking and waiting.
        let mut news = self.news.subscribe();
        loop {
            let page = self.log_page(of, since, limit).await?;
            if !page.entries.is_empty() || page.over || Instant::now() >= deadline {
                return Ok(page);
            }
            let look = deadline.min(Instant::now() + LOG_LOOK);
            // Both ends of the wait are answered by looking again.
            let _ = timeout_at(look, news.changed()).await;
        }
    }

    async fn log_page(
        &self,
        of: Of<'_>,
        since: u64,
        limit: u32,
    ) -> Result<LogPage, ControllerError> {
        let mut transaction = self.db.read().await?;
        let c = &mut *transaction;
        let ended = match of {
            Of::Machine(id) => {
                machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
                false
            }
            Of::Run(id) => run::get(c, id).await?.ok_or_else(|| unknown_run(id))?.ended.is_some(),
        };
        let entries = event::list(c, of, since, limit).await?;
        let next = entries.last().map_or(since, |entry| entry.record);
        Ok(LogPage { over: ended && entries.is_empty(), entries, next })
    }
}

pub(super) async fn current(c: &mut Connection, record: &Machine) -> Result<Option<Run>, DbError> {
    match &record.run {
        Some(id) => run::get(c, id).await,
        None => Ok(None),
    }
}

async fn summary(c: &mut Connection, record: &Machine) -> Result<MachineSummary, DbError> {
    let run = current(c, record).await?;
    Ok(MachineSummary {
        id: record.id.clone(),
        state: record.state,
        reason: record.reason.clone(),
        labels: record.labels.clone(),
        manufacturer: record.inventory.system.manufacturer.clone(),
        product: record.inventory.system.product.clone(),
        macs: record.inventory.nics.iter().map(|nic| nic.mac.clone()).collect(),
        run: record.run.clone(),
        reference: run.map(|run| match &run.target.makes {
            Some(made) => made.reference(),
            None => run.target.system.reference,
        }),
        first_seen: record.first_seen,
        last_seen: record.last_seen,
    })
}

pub(super) async fn detail(c: &mut Connection, record: Machine) -> Result<MachineDetail, DbError> {
    let runs = run::list(c, Some(&record.id), MACHINE_RUNS).await?;
    let identifiers = machine::identifiers(c, &record.id).await?;
    Ok(MachineDetail {
        summary: summary(c, &record).await?,
        facts: attachment::facts_of(c, &record).await?,
        held: record.held,
        deploy: record.deploy,
        answers: record.answers,
        inventory: record.inventory,
        identifiers: identifiers.iter().map(ToString::to_string).collect(),
        agent: record.agent,
        runs: runs.into_iter().map(run_summary).collect(),
    })
}

fn run_summary(run: Run) -> RunSummary {
    RunSummary {
        id: run.id,
        machine: run.machine,
        image: run.target.system.image,
        reference: run.target.system.reference,
        others: run.target.others,
        makes: run.target.makes,
        rule: run.target.rule,
        state: run.state,
        attempt: run.attempt,
        cause: run.cause,
        created: run.created,
        changed: run.changed,
    }
}

fn unknown_run(id: &RunId) -> ControllerError {
    ControllerError::Missing(format!("there is no run {id}: `ingot run ls` lists all"))
}
