//! Operators choose machines, give them images, and take them out of service.

use wire::admin::{DeployRequest, Deployment, MachineDetail, MachineState, UnixMs};
use wire::expr::Expr;
use wire::{Facts, MachineId};

use super::admin::{current, detail};
use super::decide::Decision;
use super::events::unknown_machine;
use super::{Controller, ControllerError};
use crate::db::machine::Machine;
use crate::db::{Connection, attachment, machine, run};
use crate::identity::Fingerprint;
use crate::policy::{ImageSet, Member, Policy, Source};
use crate::state::superseded;

/// What stands for the rule in the runs of machines that an operator gave an image.
const RULE: &str = "ingot deploy";

impl Controller {
    /// What is wanted of a machine: what an operator gave it, else what the
    /// policy says.
    pub(super) async fn decide_for<'a>(
        &self,
        policy: &'a Policy,
        facts: &Facts,
        deploy: Option<&Deployment>,
    ) -> Result<Decision<'a>, ControllerError> {
        let Some(Deployment { reference, disk, start }) = deploy.cloned() else {
            return self.decide(policy, facts).await;
        };
        let system = Member { source: Source::Image(reference), disk };
        let set = ImageSet { system, others: Vec::new(), start };
        self.set(policy, RULE, &set, facts).await
    }

    /// Gives a machine an image whatever the policy says, or leaves it to the
    /// policy again; from its next check-in on.
    pub async fn deploy(
        &self,
        id: &MachineId,
        request: &DeployRequest,
    ) -> Result<MachineDetail, ControllerError> {
        if let Some(Deployment { reference, .. }) = &request.image {
            let found = self.images.resolve(reference).await;
            let found = found.map_err(|source| {
                let reference = reference.clone();
                ControllerError::Images { reference, source }
            })?;
            if found.is_none() {
                return Err(ControllerError::Refused(format!(
                    "the store has no image {reference}: `ingot ls` lists what it has"
                )));
            }
        }
        let change = |record: &mut Machine| {
            record.deploy = request.image.clone();
            Ok(())
        };
        let detail = self.change(id, change).await?;
        let image = request.image.as_ref().map(|image| image.reference.to_string());
        tracing::info!(machine = %id, image, "an operator decides what the machine runs");
        Ok(detail)
    }

    /// Changes the record of a machine that was not retired.
    pub(super) async fn change(
        &self,
        id: &MachineId,
        change: impl FnOnce(&mut Machine) -> Result<(), ControllerError>,
    ) -> Result<MachineDetail, ControllerError> {
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        let mut record = in_service(c, id).await?;
        change(&mut record)?;
        machine::put(c, &record).await?;
        let detail = detail(c, record).await?;
        transaction.commit().await?;
        Ok(detail)
    }

    /// Takes a machine out of service: its record stays, and whoever has its
    /// parts from now on is another machine. Its disks are not touched.
    pub async fn retire(
        &self,
        id: &MachineId,
        now: UnixMs,
    ) -> Result<MachineDetail, ControllerError> {
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        let mut record = machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
        if let Some(last) = current(c, &record).await? {
            let closed = superseded(last.clone(), "the machine was retired", now);
            if closed != last {
                run::put(c, &closed).await?;
            }
        }
        (record.state, record.reason) = (MachineState::Retired, None);
        (record.held, record.deploy) = (None, None);
        machine::put(c, &record).await?;
        machine::put_identifiers(c, id, &Fingerprint::new()).await?;
        let detail = detail(c, record).await?;
        transaction.commit().await?;
        self.builds.watch(&[], id, now).await?;
        self.announce();
        tracing::info!(machine = %id, "an operator retired the machine");
        Ok(detail)
    }
}

/// The machines that an expression is true of, out of some; all without one.
pub(super) async fn chosen(
    c: &mut Connection,
    records: Vec<Machine>,
    on: Option<&str>,
) -> Result<Vec<Machine>, ControllerError> {
    let Some(on) = on else { return Ok(records) };
    let refused = |message: String| ControllerError::Refused(format!("{on:?}: {message}"));
    let expr = on.parse::<Expr>().map_err(|error| refused(error.message))?;
    if let Some(problem) = expr.check().first() {
        return Err(refused(problem.message.clone()));
    }
    let facts = attachment::facts_of_all(c, &records).await?;
    let fits = |(record, facts): &(Machine, Facts)| {
        record.state != MachineState::Retired && expr.matches(facts)
    };
    let fitting = records.into_iter().zip(facts).filter(fits);
    Ok(fitting.map(|(record, _)| record).collect())
}

/// The record of a machine that was not retired.
pub(super) async fn in_service(
    c: &mut Connection,
    id: &MachineId,
) -> Result<Machine, ControllerError> {
    let record = machine::get(c, id).await?.ok_or_else(|| unknown_machine(id))?;
    match record.state {
        MachineState::Retired => Err(ControllerError::Refused(format!(
            "machine {id} was retired: should it come back, it checks in as another one"
        ))),
        _ => Ok(record),
    }
}
