//! Builds that ended.

use wire::Digest;

use super::{Connection, DbError, from_json, from_sql, parsed, to_json, to_sql};
use crate::build::{Built, Ending, Record};

#[derive(sqlx::FromRow)]
struct Row {
    configuration: String,
    image: Option<String>,
    provenance: Option<String>,
    cause: Option<String>,
    log: Option<String>,
    began: i64,
    ended: i64,
}

impl TryFrom<Row> for Record {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Record, DbError> {
        let ending = match row.image {
            Some(image) => Ending::Built(Built {
                image: parsed(&image, "builds.image")?,
                provenance: from_json(&row.provenance.unwrap_or_default(), "builds.provenance")?,
            }),
            None => Ending::Failed {
                cause: row.cause.unwrap_or_default(),
                log: from_json(&row.log.unwrap_or_default(), "builds.log")?,
            },
        };
        Ok(Record {
            configuration: from_json(&row.configuration, "builds.configuration")?,
            ending,
            began: from_sql(row.began, "builds.began")?,
            ended: from_sql(row.ended, "builds.ended")?,
        })
    }
}

/// How the build of this key ended.
pub(crate) async fn get(c: &mut Connection, key: &Digest) -> Result<Option<Record>, DbError> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM builds WHERE key = $1")
        .bind(key.to_string())
        .fetch_optional(c)
        .await?;
    row.map(Record::try_from).transpose()
}

/// Records how a build ended, in place of how it ended before.
pub(crate) async fn put(c: &mut Connection, record: &Record) -> Result<(), DbError> {
    let sql = "INSERT INTO builds \
               (key, configuration, image, provenance, cause, log, began, ended) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (key) DO UPDATE SET \
               configuration = $2, image = $3, provenance = $4, cause = $5, log = $6, \
               began = $7, ended = $8";
    let (built, failed) = match &record.ending {
        Ending::Built(built) => (Some(built), None),
        Ending::Failed { cause, log } => (None, Some((cause, log))),
    };
    let provenance = built.map(|built| to_json(&built.provenance, "builds.provenance"));
    let log = failed.map(|(_, log)| to_json(log, "builds.log"));
    sqlx::query(sql)
        .bind(record.configuration.key.to_string())
        .bind(to_json(&record.configuration, "builds.configuration")?)
        .bind(built.map(|built| built.image.to_string()))
        .bind(provenance.transpose()?)
        .bind(failed.map(|(cause, _)| cause))
        .bind(log.transpose()?)
        .bind(to_sql(record.began, "builds.began")?)
        .bind(to_sql(record.ended, "builds.ended")?)
        .execute(c)
        .await?;
    Ok(())
}

/// Forgets a build that failed; whether there was one.
pub(crate) async fn remove_failed(c: &mut Connection, key: &Digest) -> Result<bool, DbError> {
    let sql = "DELETE FROM builds WHERE key = $1 AND image IS NULL";
    let done = sqlx::query(sql).bind(key.to_string()).execute(c).await?;
    Ok(done.rows_affected() > 0)
}
