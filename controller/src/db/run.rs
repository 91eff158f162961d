//! Runs.

use std::collections::BTreeMap;

use wire::admin::UnixMs;
use wire::{Digest, ImageOrder, MachineId, RunId};

use super::{
    Connection, DbError, counts, from_json, from_sql, from_word, parsed, to_json, to_sql, to_word,
};
use crate::state::{Run, Target};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    machine: String,
    rule: String,
    reference: String,
    image: String,
    disk: String,
    start: String,
    others: String,
    configuration: Option<String>,
    state: String,
    attempt: i64,
    boot: String,
    cause: Option<String>,
    created: i64,
    changed: i64,
    ended: Option<i64>,
}

impl TryFrom<Row> for Run {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Run, DbError> {
        Ok(Run {
            id: parsed(&row.id, "runs.id")?,
            machine: parsed(&row.machine, "runs.machine")?,
            target: Target {
                rule: row.rule,
                system: ImageOrder {
                    image: parsed(&row.image, "runs.image")?,
                    reference: parsed(&row.reference, "runs.reference")?,
                    disk: from_json(&row.disk, "runs.disk")?,
                },
                others: from_json(&row.others, "runs.others")?,
                start: from_word(&row.start, "runs.start")?,
                makes: row
                    .configuration
                    .map(|configuration| from_json(&configuration, "runs.configuration"))
                    .transpose()?,
            },
            state: from_word(&row.state, "runs.state")?,
            attempt: from_sql(row.attempt, "runs.attempt")?,
            boot: row.boot,
            cause: row.cause,
            created: from_sql::<UnixMs>(row.created, "runs.created")?,
            changed: from_sql::<UnixMs>(row.changed, "runs.changed")?,
            ended: row.ended.map(|ended| from_sql(ended, "runs.ended")).transpose()?,
        })
    }
}

/// One run.
pub(crate) async fn get(c: &mut Connection, id: &RunId) -> Result<Option<Run>, DbError> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM runs WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(c)
        .await?;
    row.map(Run::try_from).transpose()
}

/// Runs of one machine, or of all, newest first.
pub(crate) async fn list(
    c: &mut Connection,
    machine: Option<&MachineId>,
    limit: u32,
) -> Result<Vec<Run>, DbError> {
    let of_machine = "SELECT * FROM runs WHERE machine = $1 ORDER BY created DESC, id LIMIT $2";
    let of_all = "SELECT * FROM runs ORDER BY created DESC, id LIMIT $1";
    let query = match machine {
        Some(machine) => sqlx::query_as(of_machine).bind(machine.as_str()),
        None => sqlx::query_as(of_all),
    };
    let rows: Vec<Row> = query.bind(i64::from(limit)).fetch_all(c).await?;
    rows.into_iter().map(Run::try_from).collect()
}

/// How many runs are in each state, of the newest ones.
pub(crate) async fn states(
    c: &mut Connection,
    newest: u32,
) -> Result<BTreeMap<String, u64>, DbError> {
    let sql = "SELECT state, COUNT(*) FROM \
               (SELECT state FROM runs ORDER BY created DESC, id LIMIT $1) GROUP BY state";
    let rows = sqlx::query_as(sql).bind(i64::from(newest)).fetch_all(c).await?;
    counts(rows, "runs.state")
}

/// The runs that are under way and make the image of this key.
pub(crate) async fn makers(c: &mut Connection, key: &Digest) -> Result<Vec<Run>, DbError> {
    let sql = "SELECT runs.* FROM runs JOIN machines ON machines.run = runs.id \
               WHERE runs.makes = $1 ORDER BY runs.created, runs.id";
    let rows: Vec<Row> = sqlx::query_as(sql).bind(key.to_string()).fetch_all(c).await?;
    let runs: Result<Vec<Run>, DbError> = rows.into_iter().map(Run::try_from).collect();
    Ok(runs?.into_iter().filter(|run| !run.state.is_over()).collect())
}

/// The current runs, not over, of machines of which nothing was heard after then.
pub(crate) async fn silent_since(c: &mut Connection, then: UnixMs) -> Result<Vec<Run>, DbError> {
    let sql = "SELECT runs.* FROM runs JOIN machines ON machines.run = runs.id \
               WHERE machines.last_seen <= $1 AND machines.state = 'deploying' \
               ORDER BY runs.created, runs.id";
    let then = to_sql(then, "machines.last_seen")?;
    let rows: Vec<Row> = sqlx::query_as(sql).bind(then).fetch_all(c).await?;
    rows.into_iter().map(Run::try_from).collect()
}

/// CROSS JOIN keeps SQLite to this order: of many runs few are under way. The states
/// are named, so that an index finds them.
const UNDER_WAY: &str = "SELECT runs.* FROM runs CROSS JOIN machines \
    WHERE machines.run = runs.id AND runs.rule = $1 AND runs.state IN ('ordered', 'planning', \
    'transferring', 'verifying', 'sealing', 'scripting', 'capturing', 'starting', 'retrying') \
    ORDER BY runs.created, runs.id";

/// The current runs of a rule that are not over.
pub(crate) async fn under_way(c: &mut Connection, rule: &str) -> Result<Vec<Run>, DbError> {
    let rows: Vec<Row> = sqlx::query_as(UNDER_WAY).bind(rule).fetch_all(c).await?;
    rows.into_iter().map(Run::try_from).collect()
}

/// Machines in service that have a rule's images, or a run of it; so many at most.
pub(crate) async fn holders(
    c: &mut Connection,
    rule: &str,
    limit: u32,
) -> Result<Vec<MachineId>, DbError> {
    let sql = "SELECT runs.machine FROM runs CROSS JOIN machines WHERE machines.run = runs.id \
               AND runs.rule = $1 AND runs.state <> 'superseded' \
               AND machines.state <> 'retired' LIMIT $2";
    let rows: Vec<(String,)> =
        sqlx::query_as(sql).bind(rule).bind(i64::from(limit)).fetch_all(c).await?;
    rows.iter().map(|(id,)| parsed(id, "runs.machine")).collect()
}

/// Writes the record of a run that has none; fails where its id is taken.
pub(crate) async fn add(c: &mut Connection, run: &Run) -> Result<(), DbError> {
    let sql = "INSERT INTO runs (id, state, attempt, boot, cause, changed, ended, created, \
               machine, rule, reference, image, disk, start, others, makes, \
               configuration) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, \
               $15, $16, $17)";
    let Target { rule, system, others, start, makes } = &run.target;
    let configuration = makes.as_ref().map(|made| to_json(made, "runs.configuration"));
    changing(sql, run)?
        .bind(to_sql(run.created, "runs.created")?)
        .bind(run.machine.as_str())
        .bind(rule)
        .bind(system.reference.to_string())
        .bind(system.image.to_string())
        .bind(to_json(&system.disk, "runs.disk")?)
        .bind(to_word(start, "runs.start")?)
        .bind(to_json(others, "runs.others")?)
        .bind(makes.as_ref().map(|made| made.key.to_string()))
        .bind(configuration.transpose()?)
        .execute(c)
        .await?;
    Ok(())
}

/// Writes what changes in the record of a run that has one.
pub(crate) async fn put(c: &mut Connection, run: &Run) -> Result<(), DbError> {
    let sql = "UPDATE runs SET state = $2, attempt = $3, boot = $4, cause = $5, changed = $6, \
               ended = $7 WHERE id = $1";
    changing(sql, run)?.execute(c).await?;
    Ok(())
}

/// A statement with the id and what changes bound.
fn changing<'a>(sql: &'static str, run: &'a Run) -> Result<Statement<'a>, DbError> {
    Ok(sqlx::query(sql)
        .bind(run.id.as_str())
        .bind(to_word(&run.state, "runs.state")?)
        .bind(i64::from(run.attempt))
        .bind(&run.boot)
        .bind(&run.cause)
        .bind(to_sql(run.changed, "runs.changed")?)
        .bind(run.ended.map(|ended| to_sql(ended, "runs.ended")).transpose()?))
}

type Statement<'a> = sqlx::query::Query<'a, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

#[cfg(test)]
mod tests {
    use wire::admin::RunState;

    use super::*;

    #[test]
    fn every_state_that_is_not_over_is_under_way() {
        use RunState::{
            AlreadyInstalled, Capturing, Failed, Ordered, Planning, Retrying, Scripting, Sealing,
            Starting, Succeeded, Superseded, Transferring, Unknown, Verifying,
        };
        let states = [
            AlreadyInstalled,
            Capturing,
            Failed,
            Ordered,
            Planning,
            Retrying,
            Scripting,
            Sealing,
            Starting,
            Succeeded,
            Superseded,
            Transferring,
            Verifying,
        ];
        for state in states {
            let named = UNDER_WAY.contains(&format!("'{}'", to_word(&state, "").unwrap()));
            assert_eq!(named, !state.is_over(), "{state:?}");
            // A new state is to be looked at here.
            match state {
                AlreadyInstalled | Capturing | Failed | Ordered | Planning | Retrying
                | Scripting | Sealing | Starting | Succeeded | Superseded | Transferring
                | Verifying | Unknown => {}
            }
        }
    }
}
