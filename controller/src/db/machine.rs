//! Machines and what they are recognised by.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use wire::admin::{Deployment, MachineState, UnixMs};
use wire::{FactValue, Facts, Inventory, MachineId, RunId};

use super::{
    Connection, DbError, counts, from_json, from_sql, from_word, parsed, to_json, to_sql, to_word,
};
use crate::attachment::Attachment;
use crate::identity::{Fingerprint, Identifier, Kind, sought};
use crate::policy::Answers;
use crate::policy::question::add_facts;

/// The record of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub id: MachineId,
    pub state: MachineState,
    /// Why it is held or failed.
    pub reason: Option<String>,
    /// Why an operator, or doubt about which machine this is, holds it.
    pub held: Option<String>,
    /// What an operator gave it, whatever the policy says.
    pub deploy: Option<Deployment>,
    pub labels: BTreeMap<String, String>,
    pub answers: Answers,
    pub inventory: Inventory,
    /// Version of the agent.
    pub agent: String,
    /// The current run.
    pub run: Option<RunId>,
    pub first_seen: UnixMs,
    pub last_seen: UnixMs,
    /// How many events it has.
    pub records: u64,
}

impl Machine {
    /// What the policy is held against. Where the machine is, is on record by its
    /// cards ([`attachment::facts_of`]).
    pub fn facts(&self, attachment: Option<&Attachment>) -> Facts {
        facts(&self.inventory, &self.labels, &self.answers, attachment)
    }
}

/// The facts of an inventory, the labels, the answers, and the place in the network.
pub(crate) fn facts(
    inventory: &Inventory,
    labels: &BTreeMap<String, String>,
    answers: &Answers,
    attachment: Option<&Attachment>,
) -> Facts {
    let mut facts = inventory.facts();
    if let Some(attachment) = attachment {
        attachment.add_facts(&mut facts);
    }
    add_facts(answers, &mut facts);
    for (name, value) in labels {
        facts.insert(format!("label.{name}"), FactValue::Text(value.clone()));
    }
    facts
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    state: String,
    reason: Option<String>,
    held: Option<String>,
    deploy: Option<String>,
    labels: String,
    answers: String,
    inventory: String,
    agent: String,
    run: Option<String>,
    first_seen: i64,
    last_seen: i64,
    records: i64,
}

impl TryFrom<Row> for Machine {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Machine, DbError> {
        Ok(Machine {
            id: parsed(&row.id, "machines.id")?,
            state: from_word(&row.state, "machines.state")?,
            reason: row.reason,
            held: row.held,
            deploy: row.deploy.map(|json| from_json(&json, "machines.deploy")).transpose()?,
            labels: from_json(&row.labels, "machines.labels")?,
            answers: from_json(&row.answers, "machines.answers")?,
            inventory: from_json(&row.inventory, "machines.inventory")?,
            agent: row.agent,
            run: row.run.map(|run| parsed(&run, "machines.run")).transpose()?,
            first_seen: from_sql(row.first_seen, "machines.first_seen")?,
            last_seen: from_sql(row.last_seen, "machines.last_seen")?,
            records: from_sql(row.records, "machines.records")?,
        })
    }
}

/// One machine.
pub(crate) async fn get(c: &mut Connection, id: &MachineId) -> Result<Option<Machine>, DbError> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM machines WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(c)
        .await?;
    row.map(Machine::try_from).transpose()
}

/// Machines whose ids come after this one, in order.
pub(crate) async fn list(
    c: &mut Connection,
    after: Option<&MachineId>,
    limit: u32,
) -> Result<Vec<Machine>, DbError> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM machines WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after.map_or("", MachineId::as_str))
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?;
    rows.into_iter().map(Machine::try_from).collect()
}

/// How many machines are in each state.
pub(crate) async fn states(c: &mut Connection) -> Result<BTreeMap<String, u64>, DbError> {
    let sql = "SELECT state, COUNT(*) FROM machines GROUP BY state";
    counts(sqlx::query_as(sql).fetch_all(c).await?, "machines.state")
}

/// Writes the record of a machine that has none; fails where its id is taken.
pub(crate) async fn add(c: &mut Connection, machine: &Machine) -> Result<(), DbError> {
    let sql = "INSERT INTO machines (id, state, reason, held, labels, inventory, agent, run, \
               first_seen, last_seen, records, answers, deploy) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    write(c, sql, machine).await
}

/// Writes the record of a machine that has one.
pub(crate) async fn put(c: &mut Connection, machine: &Machine) -> Result<(), DbError> {
    let sql = "UPDATE machines SET state = $2, reason = $3, held = $4, labels = $5, \
               inventory = $6, agent = $7, run = $8, first_seen = $9, last_seen = $10, \
               records = $11, answers = $12, deploy = $13 WHERE id = $1";
    write(c, sql, machine).await
}

async fn write(c: &mut Connection, sql: &'static str, machine: &Machine) -> Result<(), DbError> {
    sqlx::query(sql)
        .bind(machine.id.as_str())
        .bind(to_word(&machine.state, "machines.state")?)
        .bind(&machine.reason)
        .bind(&machine.held)
        .bind(to_json(&machine.labels, "machines.labels")?)
        .bind(to_json(&machine.inventory, "machines.inventory")?)
        .bind(&machine.agent)
        .bind(machine.run.as_ref().map(RunId::as_str))
        .bind(to_sql(machine.first_seen, "machines.first_seen")?)
        .bind(to_sql(machine.last_seen, "machines.last_seen")?)
        .bind(to_sql(machine.records, "machines.records")?)
        .bind(to_json(&machine.answers, "machines.answers")?)
        .bind(machine.deploy.as_ref().map(|d| to_json(d, "machines.deploy")).transpose()?)
        .execute(c)
        .await?;
    Ok(())
}

/// Machines that share an identifier with this fingerprint, with all of theirs.
pub(crate) async fn sharing(
    c: &mut Connection,
    fingerprint: &Fingerprint,
) -> Result<BTreeMap<MachineId, Fingerprint>, DbError> {
    let mut query = QueryBuilder::new(
        "SELECT machine, kind, value FROM identifiers WHERE machine IN \
         (SELECT machine FROM identifiers WHERE ",
    );
    for (i, identifier) in sought(fingerprint).iter().enumerate() {
        query.push(if i == 0 { "(kind = " } else { " OR (kind = " });
        query.push_bind(identifier.kind.name());
        query.push(" AND value = ").push_bind(identifier.value.clone()).push(")");
    }
    query.push(")");
    let rows: Vec<(String, String, String)> = query.build_query_as().fetch_all(c).await?;
    let mut machines: BTreeMap<MachineId, Fingerprint> = BTreeMap::new();
    for (id, kind, value) in rows {
        let id = parsed(&id, "identifiers.machine")?;
        machines.entry(id).or_default().insert(identifier(&kind, value)?);
    }
    Ok(machines)
}

fn identifier(kind: &str, value: String) -> Result<Identifier, DbError> {
    match Kind::from_name(kind) {
        Some(kind) => Ok(Identifier { kind, value }),
        None => Err(super::bad("identifiers.kind", kind)),
    }
}

/// Machines that have this identifier.
pub(crate) async fn with(
    c: &mut Connection,
    identifier: &Identifier,
) -> Result<Vec<MachineId>, DbError> {
    let sql = "SELECT machine FROM identifiers WHERE kind = $1 AND value = $2 ORDER BY machine";
    let ids: Vec<(String,)> = sqlx::query_as(sql)
        .bind(identifier.kind.name())
        .bind(&identifier.value)
        .fetch_all(c)
        .await?;
    ids.iter().map(|(id,)| parsed(id, "identifiers.machine")).collect()
}

/// What a machine is recognised by.
pub(crate) async fn identifiers(
    c: &mut Connection,
    id: &MachineId,
) -> Result<Fingerprint, DbError> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT kind, value FROM identifiers WHERE machine = $1")
            .bind(id.as_str())
            .fetch_all(c)
            .await?;
    rows.into_iter().map(|(kind, value)| identifier(&kind, value)).collect()
}

/// Replaces what a machine is recognised by.
pub(crate) async fn put_identifiers(
    c: &mut Connection,
    id: &MachineId,
    fingerprint: &Fingerprint,
) -> Result<(), DbError> {
    let delete = sqlx::query("DELETE FROM identifiers WHERE machine = $1").bind(id.as_str());
    delete.execute(&mut *c).await?;
    for identifier in fingerprint {
        sqlx::query("INSERT INTO identifiers (kind, value, machine) VALUES ($1, $2, $3)")
            .bind(identifier.kind.name())
            .bind(&identifier.value)
            .bind(id.as_str())
            .execute(&mut *c)
            .await?;
    }
    Ok(())
}
