//! Boots and events.

use sqlx::QueryBuilder;
use wire::admin::{LogEntry, SERVER_BOOT, UnixMs};
use wire::{Event, EventKind, MachineId, RunId};

use super::{Connection, DbError, from_json, from_sql, machine, parsed, to_json, to_sql};
use crate::state::Run;

/// Events in one statement: ten values each, far below what databases allow.
const ROWS_MAX: usize = 100;

/// Up to which number the events of a boot are recorded, once it has begun.
pub(crate) async fn seq(
    c: &mut Connection,
    machine: &MachineId,
    boot: &str,
) -> Result<u64, DbError> {
    let (seq,): (i64,) = sqlx::query_as("SELECT seq FROM boots WHERE machine = $1 AND boot = $2")
        .bind(machine.as_str())
        .bind(boot)
        .fetch_one(c)
        .await?;
    from_sql(seq, "boots.seq")
}

/// Begins the record of a boot, unless it has one.
pub(crate) async fn begin(
    c: &mut Connection,
    machine: &MachineId,
    boot: &str,
    now: UnixMs,
) -> Result<(), DbError> {
    let sql = "INSERT INTO boots (machine, boot, first_seen, seq) VALUES ($1, $2, $3, 0) \
               ON CONFLICT (machine, boot) DO NOTHING";
    sqlx::query(sql)
        .bind(machine.as_str())
        .bind(boot)
        .bind(to_sql(now, "boots.first_seen")?)
        .execute(c)
        .await?;
    Ok(())
}

/// Records up to which number the events of a boot are recorded.
pub(crate) async fn put_seq(
    c: &mut Connection,
    machine: &MachineId,
    boot: &str,
    seq: u64,
) -> Result<(), DbError> {
    sqlx::query("UPDATE boots SET seq = $3 WHERE machine = $1 AND boot = $2")
        .bind(machine.as_str())
        .bind(boot)
        .bind(to_sql(seq, "boots.seq")?)
        .execute(c)
        .await?;
    Ok(())
}

/// Records events; the first gets this record number.
pub(crate) async fn add(
    c: &mut Connection,
    machine: &MachineId,
    first: u64,
    boot: &str,
    events: &[Event],
    now: UnixMs,
) -> Result<(), DbError> {
    let mut rows = Vec::new();
    for (record, event) in (first..).zip(events) {
        let numbers = (
            to_sql(record, "events.record")?,
            to_sql(event.seq, "events.seq")?,
            to_sql(event.uptime_ms, "events.uptime_ms")?,
        );
        rows.push((event, numbers, to_json(&event.kind, "events.kind")?));
    }
    let received = to_sql(now, "events.received")?;
    for rows in rows.chunks(ROWS_MAX) {
        let mut query = QueryBuilder::new(
            "INSERT INTO events (machine, record, boot, seq, uptime_ms, received, run, attempt, \
             event, kind) ",
        );
        query.push_values(rows, |mut row, (event, (record, seq, uptime_ms), kind)| {
            row.push_bind(machine.as_str())
                .push_bind(record)
                .push_bind(boot)
                .push_bind(seq)
                .push_bind(uptime_ms)
                .push_bind(received)
                .push_bind(event.run.as_ref().map(RunId::as_str))
                .push_bind(i64::from(event.attempt))
                .push_bind(word(&event.kind))
                .push_bind(kind);
        });
        query.build().execute(&mut *c).await?;
    }
    Ok(())
}

/// Adds lines of the server itself to the log of a machine, and of its run
/// where one is named.
pub(crate) async fn note(
    c: &mut Connection,
    id: &MachineId,
    run: Option<&RunId>,
    lines: &[String],
    now: UnixMs,
) -> Result<(), DbError> {
    let Some(mut record) = machine::get(c, id).await? else { return Ok(()) };
    begin(c, id, SERVER_BOOT, now).await?;
    let mut last = seq(c, id, SERVER_BOOT).await?;
    let mut events = Vec::new();
    for line in lines {
        last += 1;
        let kind = EventKind::Log { line: line.clone() };
        let attempt = u32::from(run.is_some());
        events.push(Event { seq: last, uptime_ms: 0, run: run.cloned(), attempt, kind });
    }
    add(c, id, record.records + 1, SERVER_BOOT, &events, now).await?;
    put_seq(c, id, SERVER_BOOT, last).await?;
    record.records += u64::try_from(lines.len()).unwrap_or_default();
    machine::put(c, &record).await
}

fn word(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::StepStarted { .. } => "step-started",
        EventKind::StepProgress { .. } => "step-progress",
        EventKind::StepEnded { .. } => "step-ended",
        EventKind::Planned { .. } => "planned",
        EventKind::Log { .. } => "log",
        EventKind::Unknown => "unknown",
    }
}

/// Whose log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    Machine(&'a MachineId),
    Run(&'a RunId),
}

#[derive(sqlx::FromRow)]
struct Row {
    record: i64,
    boot: String,
    seq: i64,
    uptime_ms: i64,
    received: i64,
    run: Option<String>,
    attempt: i64,
    kind: String,
}

impl TryFrom<Row> for LogEntry {
    type Error = DbError;

    fn try_from(row: Row) -> Result<LogEntry, DbError> {
        Ok(LogEntry {
            record: from_sql(row.record, "events.record")?,
            received: from_sql(row.received, "events.received")?,
            boot: row.boot,
            seq: from_sql(row.seq, "events.seq")?,
            uptime_ms: from_sql(row.uptime_ms, "events.uptime_ms")?,
            run: row.run.map(|run| parsed(&run, "events.run")).transpose()?,
            attempt: from_sql(row.attempt, "events.attempt")?,
            kind: from_json(&row.kind, "events.kind")?,
        })
    }
}

/// Events after a record number, in order.
pub(crate) async fn list(
    c: &mut Connection,
    of: Of<'_>,
    since: u64,
    limit: u32,
) -> Result<Vec<LogEntry>, DbError> {
    let of_machine =
        "SELECT * FROM events WHERE machine = $1 AND record > $2 ORDER BY record LIMIT $3";
    let of_run = "SELECT * FROM events WHERE run = $1 AND record > $2 ORDER BY record LIMIT $3";
    let query = match of {
        Of::Machine(id) => sqlx::query_as(of_machine).bind(id.as_str()),
        Of::Run(id) => sqlx::query_as(of_run).bind(id.as_str()),
    };
    // A caller may ask for anything; there is no record beyond what SQL can count.
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let rows: Vec<Row> = query.bind(since).bind(i64::from(limit)).fetch_all(c).await?;
    rows.into_iter().map(LogEntry::try_from).collect()
}

/// The last lines that a machine told of the current attempt of its run, in order.
pub(crate) async fn last_lines(
    c: &mut Connection,
    run: &Run,
    limit: u32,
) -> Result<Vec<String>, DbError> {
    let sql = "SELECT kind FROM events WHERE run = $1 AND boot = $2 AND attempt = $3 \
               AND event = 'log' ORDER BY record DESC LIMIT $4";
    let rows: Vec<(String,)> = sqlx::query_as(sql)
        .bind(run.id.as_str())
        .bind(&run.boot)
        .bind(i64::from(run.attempt))
        .bind(i64::from(limit))
        .fetch_all(c)
        .await?;
    let mut lines = Vec::new();
    for (kind,) in rows.iter().rev() {
        if let EventKind::Log { line } = from_json(kind, "events.kind")? {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Events of a run that are not log lines, all of them, in order.
pub(crate) async fn steps(c: &mut Connection, run: &RunId) -> Result<Vec<LogEntry>, DbError> {
    let sql = "SELECT * FROM events WHERE run = $1 AND event <> 'log' ORDER BY record";
    let rows: Vec<Row> = sqlx::query_as(sql).bind(run.as_str()).fetch_all(c).await?;
    rows.into_iter().map(LogEntry::try_from).collect()
}
