//! What policies would say of the machines on record.

use std::fmt::Write as _;
use std::sync::Arc;

use wire::Facts;
use wire::admin::{DryRun, DryRunMachine, DryRunRequest, LIST_MAX, MachineState, Ruling};

use super::{Controller, ControllerError};
use crate::db::machine::Machine;
use crate::db::{attachment, machine, to_word};
use crate::policy::{self, Member, Missing, Outcome, Policy, Rule, Source};

impl Controller {
    /// A page of machines with what a policy and another one, else the one in
    /// force, say of them. Machines that no policy decides about are left out:
    /// those out of service, and those that an operator deploys to.
    pub async fn dry_run(&self, request: &DryRunRequest) -> Result<DryRun, ControllerError> {
        let new = read("the policy", &request.policy)?;
        let old = match &request.instead_of {
            Some(text) => read("the policy to compare with", text)?,
            None => self.policy.current(),
        };
        let mut transaction = self.db.read().await?;
        let records = machine::list(&mut transaction, request.after.as_ref(), LIST_MAX).await?;
        let facts = attachment::facts_of_all(&mut transaction, &records).await?;
        drop(transaction);
        let full = records.len() == usize::try_from(LIST_MAX).unwrap_or(usize::MAX);
        let next = records.last().filter(|_| full).map(|record| record.id.clone());
        let is_ruled =
            |record: &Machine| record.state != MachineState::Retired && record.deploy.is_none();
        let ruled = records.into_iter().zip(facts).filter(|(record, _)| is_ruled(record));
        let machines = ruled.map(|(record, facts)| {
            let (before, after) = (ruling(&old, &facts), ruling(&new, &facts));
            DryRunMachine { machine: record.id, before, after }
        });
        Ok(DryRun { machines: machines.collect(), next })
    }
}

fn read(what: &str, text: &str) -> Result<Arc<Policy>, ControllerError> {
    if text.len() > policy::BYTES_MAX {
        let most = policy::BYTES_MAX;
        return Err(ControllerError::Refused(format!("{what} has more than {most} bytes")));
    }
    Policy::parse(text).map(Arc::new).map_err(|problems| {
        let lines = problems.iter().map(|p| format!("{}:{}: {}", p.line, p.column, p.message));
        let lines = lines.collect::<Vec<_>>().join("\n");
        ControllerError::Refused(format!("{what} has problems:\n{lines}"))
    })
}

fn ruling(policy: &Policy, facts: &Facts) -> Option<Ruling> {
    let Rule { name, outcome, limit, .. } = policy.decide(facts)?;
    let mut how = how(outcome);
    if let Some(limit) = limit {
        let _ = write!(how, "; {limit}");
    }
    Some(Ruling { rule: name.clone(), outcome: outcome.to_string(), how })
}

fn how(outcome: &Outcome) -> String {
    let Outcome::Images(set) = outcome else { return String::new() };
    let mut how = format!("start {}", to_word(&set.start, "start").unwrap_or_default());
    for (number, member) in set.members().enumerate() {
        if !set.others.is_empty() {
            let _ = write!(how, "; image {}", number + 1);
        }
        how_member(&mut how, member);
    }
    how
}

fn how_member(how: &mut String, Member { source, disk }: &Member) {
    let texts = [("serial", &disk.serial), ("wwid", &disk.wwid), ("model", &disk.model)];
    let sizes = [("at least", disk.size_bytes_min), ("at most", disk.size_bytes_max)];
    for (what, value) in texts {
        if let Some(value) = value {
            let _ = write!(how, ", disk {what} {value:?}");
        }
    }
    for (what, bytes) in sizes {
        if let Some(bytes) = bytes {
            let _ = write!(how, ", disk of {what} {bytes} bytes");
        }
    }
    if let Source::Recipe { missing, .. } = source {
        let what = match missing {
            Missing::Build => "build",
            Missing::OnTarget => "make it on the machine",
            Missing::Hold => "hold",
            Missing::Fail => "fail",
        };
        let _ = write!(how, ", {what} where it is missing");
    }
}
