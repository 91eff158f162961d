//! Callers that wait together, failures among them, and what a process that
//! ends leaves on the disk.

use std::path::Path;

use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::db::Db;

async fn opened(folder: &tempfile::TempDir) -> Db {
    Db::open(&folder.path().join("c.db")).await.unwrap()
}

async fn add(c: &mut SqliteConnection, key: &str) -> Result<(), DbError> {
    let sql = "INSERT INTO builds (key, configuration, began, ended) VALUES ($1, '', 0, 0)";
    sqlx::query(sql).bind(key).execute(c).await?;
    Ok(())
}

async fn keys(db: &Db) -> Vec<String> {
    let sql = "SELECT key FROM builds ORDER BY key";
    let mut transaction = db.read().await.unwrap();
    let keys: Vec<(String,)> = sqlx::query_as(sql).fetch_all(&mut *transaction).await.unwrap();
    keys.into_iter().map(|(key,)| key).collect()
}

/// A caller with one change, of two parts.
async fn caller(db: Db, key: String) -> Result<(), DbError> {
    let mut change = db.write().await?;
    add(&mut change, &format!("{key}-a")).await?;
    add(&mut change, &format!("{key}-b")).await?;
    change.commit().await
}

/// Lets everybody come as far as they can without the database.
async fn settled() {
    for _ in 0..2000 {
        yield_now().await;
    }
}

/// Starts a caller for each key; all wait behind the one who has the turn.
async fn callers(
    db: &Db,
    keys: impl IntoIterator<Item = String>,
) -> Vec<JoinHandle<Result<(), DbError>>> {
    let calls = keys.into_iter().map(|key| tokio::spawn(caller(db.clone(), key))).collect();
    settled().await;
    calls
}

fn names(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| format!("{number:03}"))
}

fn both(names: impl IntoIterator<Item = String>) -> Vec<String> {
    names.into_iter().flat_map(|name| [format!("{name}-a"), format!("{name}-b")]).collect()
}

#[tokio::test]
async fn changes_that_wait_together_share_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    let first = db.write().await.unwrap();
    let calls = callers(&db, names(0..200)).await;
    first.commit().await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(keys(&db).await, both(names(0..200)));
    assert_eq!(db.commits().get(), 1 + 200_u64.div_ceil(CHANGES_MAX as u64));
}

#[tokio::test]
async fn a_change_that_fails_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    let mut first = db.write().await.unwrap();
    add(&mut first, "007-b").await.unwrap();
    add(&mut first, "000-b").await.unwrap();
    add(&mut first, "019-b").await.unwrap();
    let calls = callers(&db, names(0..20)).await;
    first.commit().await.unwrap();
    let mut failed = Vec::new();
    for (number, call) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(()) => {}
            Err(DbError::Sql(sqlx::Error::Database(error))) if error.is_unique_violation() => {
                failed.push(number);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, [0, 7, 19]);
    let mut expected = both(names(1..7).chain(names(8..19)));
    expected.extend(["000-b", "007-b", "019-b"].map(str::to_owned));
    expected.sort();
    assert_eq!(keys(&db).await, expected, "nothing of a half change is there");
    assert_eq!(db.commits().get(), 2);
}

/// What another process finds once this one has ended at this moment.
async fn left_behind(folder: &Path) -> Vec<String> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["c.db", "c.db-wal"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    let db = opened(&copy).await;
    let keys = keys(&db).await;
    db.close().await;
    keys
}

#[tokio::test]
async fn a_process_that_ends_before_the_commit_has_told_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    let first = db.write().await.unwrap();
    let mut calls = callers(&db, names(0..5)).await;
    // One who comes last and takes its time, while the others are done.
    let last = tokio::spawn({
        let db = db.clone();
        async move { db.write().await }
    });
    settled().await;
    first.commit().await.unwrap();
    let mut last = last.await.unwrap().unwrap();
    settled().await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    assert_eq!(left_behind(folder.path()).await, Vec::<String>::new());
    add(&mut last, "last").await.unwrap();
    drop(last);
    calls.remove(0).await.unwrap().unwrap();
    assert_eq!(left_behind(folder.path()).await, both(names(0..5)), "told, so it is there");
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_commit_that_fails_is_told_to_everybody_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    let first = db.write().await.unwrap();
    let calls = callers(&db, names(0..3)).await;
    let orphan = tokio::spawn({
        let db = db.clone();
        async move {
            let mut change = db.write().await?;
            // Looked at when all is committed.
            change.execute("PRAGMA defer_foreign_keys = ON").await?;
            let sql =
                "INSERT INTO identifiers (kind, value, machine) VALUES ('mac', 'x', 'nobody')";
            change.execute(sql).await?;
            change.commit().await
        }
    });
    settled().await;
    first.commit().await.unwrap();
    for call in calls.into_iter().chain([orphan]) {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, DbError::Commit(_)), "{error:?}");
        assert!(wire::chain(&error).contains("FOREIGN KEY"), "{}", wire::chain(&error));
    }
    assert_eq!(keys(&db).await, Vec::<String>::new());
    caller(db.clone(), "after".to_owned()).await.unwrap();
    assert_eq!(keys(&db).await, both(["after".to_owned()]));
}

#[tokio::test]
async fn a_transaction_that_rolls_itself_back_is_told_to_everybody_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    caller(db.clone(), "000".to_owned()).await.unwrap();
    let first = db.write().await.unwrap();
    let before = callers(&db, names(1..4)).await;
    let breaker = tokio::spawn({
        let db = db.clone();
        async move {
            let mut change = db.write().await?;
            let sql = "INSERT OR ROLLBACK INTO builds (key, configuration, began, ended) \
                       VALUES ('000-a', '', 0, 0)";
            sqlx::query(sql).execute(&mut *change).await?;
            change.commit().await
        }
    });
    settled().await;
    let after = callers(&db, names(4..6)).await;
    first.commit().await.unwrap();
    assert!(matches!(breaker.await.unwrap(), Err(DbError::Sql(_))));
    for call in before {
        assert!(matches!(call.await.unwrap(), Err(DbError::Commit(_))));
    }
    for call in after {
        call.await.unwrap().unwrap();
    }
    assert_eq!(keys(&db).await, both(names(0..1).chain(names(4..6))));
}

#[tokio::test]
async fn callers_who_go_away_take_nobody_along() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    for polls in 0..40 {
        let mut gone = Box::pin(caller(db.clone(), format!("gone{polls:03}")));
        let stays = tokio::spawn(caller(db.clone(), format!("stay{polls:03}")));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(gone.as_mut().poll(context).is_ready())
            });
            if polled.await {
                break;
            }
            yield_now().await;
        }
        drop(gone);
        stays.await.unwrap().unwrap();
    }
    // Whoever comes now comes after all that is under way.
    caller(db.clone(), "last".to_owned()).await.unwrap();
    let keys = keys(&db).await;
    assert_eq!(keys.iter().filter(|key| key.starts_with("stay")).count(), 80);
    for polls in 0..40 {
        let name = format!("gone{polls:03}");
        let parts = keys.iter().filter(|key| key.starts_with(&name)).count();
        assert!(parts == 0 || parts == 2, "{parts} of {name}");
    }
}

#[tokio::test]
async fn what_was_taken_before_it_is_closed_is_kept_and_nothing_after() {
    let folder = tempfile::tempdir().unwrap();
    let db = opened(&folder).await;
    let mut first = db.write().await.unwrap();
    add(&mut first, "first").await.unwrap();
    let calls = callers(&db, names(0..3)).await;
    let closing = tokio::spawn({
        let db = db.clone();
        async move { db.close().await }
    });
    settled().await;
    first.commit().await.unwrap();
    closing.await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let error = db.write().await.unwrap_err();
    assert!(matches!(error, DbError::Sql(sqlx::Error::PoolClosed)), "{error:?}");
    let mut expected = both(names(0..3));
    expected.push("first".to_owned());
    assert_eq!(keys(&opened(&folder).await).await, expected);
}
