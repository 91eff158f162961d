//! A machine's firmware asks the network what to boot.

use wire::MachineId;

use super::admin::current;
use super::{Controller, ControllerError};
use crate::attachment::Attachment;
use crate::boot::{Asking, BootDecision, decide};
use crate::db::{Connection, DbError, attachment, machine};
use crate::identity::{Identifier, Kind, mac, uuid_swapped};

/// What firmware says of itself before anything of ours runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootClient {
    /// Hardware address of the card that asks.
    pub mac: String,
    /// UUID of the machine, in either byte order, where it was sent.
    pub uuid: Option<String>,
    /// Where it asks from, where that shows. What is on record may be where it was
    /// before.
    pub place: Option<Attachment>,
}

/// What it boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootAnswer {
    /// What.
    pub decision: BootDecision,
    /// The machine, where it was recognised.
    pub machine: Option<MachineId>,
    /// Why, in words.
    pub reason: String,
}

impl Controller {
    /// Decides what a machine boots. Writes nothing.
    pub async fn boot_decision(&self, client: &BootClient) -> Result<BootAnswer, ControllerError> {
        let mut transaction = self.db.read().await?;
        let c = &mut *transaction;
        let candidates = candidates(c, client).await?;
        let (machine, (decision, reason)) = match &candidates[..] {
            [] => (None, decide(Asking::Unknown)),
            [id] => match machine::get(c, id).await? {
                None => (None, decide(Asking::Unknown)),
                Some(record) => {
                    let run = current(c, &record).await?;
                    let facts = match self.told_of(client) {
                        Some(there) => record.facts(Some(&there)),
                        None => attachment::facts_of(c, &record).await?,
                    };
                    drop(transaction);
                    let wanted = self.wanted(&self.policy.current(), &record, &facts).await?;
                    let held = record.held.as_deref();
                    let asking = Asking::Known { held, run: run.as_ref(), wanted: &wanted };
                    (Some(record.id), decide(asking))
                }
            },
            several => (None, decide(Asking::Doubtful(several))),
        };
        self.metrics.booted(decision);
        let name = machine.as_ref().map(MachineId::as_str);
        tracing::info!(
            mac = client.mac, uuid = client.uuid.as_deref(), machine = name, %decision, reason,
            "boot decision"
        );
        Ok(BootAnswer { decision, machine, reason })
    }
}

impl Controller {
    /// Where a client is by what it asks, or by what was told and not recorded yet.
    fn told_of(&self, client: &BootClient) -> Option<Attachment> {
        client.place.clone().or_else(|| self.attached.told_of(&mac(&client.mac)?))
    }
}

/// The machines that this may be: those with this card, unless they have
/// another UUID than the one that was sent.
async fn candidates(c: &mut Connection, client: &BootClient) -> Result<Vec<MachineId>, DbError> {
    let Some(value) = mac(&client.mac) else { return Ok(Vec::new()) };
    let mut candidates = machine::with(c, &Identifier { kind: Kind::Mac, value }).await?;
    let Some(uuid) = client.uuid.as_ref().map(|uuid| uuid.to_lowercase()) else {
        return Ok(candidates);
    };
    let swapped = uuid_swapped(&uuid);
    let mut other = Vec::new();
    for id in &candidates {
        let identifiers = machine::identifiers(c, id).await?;
        let stored = identifiers.into_iter().find(|identifier| identifier.kind == Kind::Uuid);
        let differs = |stored: Identifier| stored.value != uuid && Some(stored.value) != swapped;
        if stored.is_some_and(differs) {
            other.push(id.clone());
        }
    }
    candidates.retain(|id| !other.contains(id));
    Ok(candidates)
}
