//! The records are lost, or an older copy of them is put in their place, while
//! agents go on: whatever they report is taken, and the log tells what is missing.

use std::path::Path;
use std::time::Duration;

use wire::admin::{LogEntry, RunState};
use wire::{EventKind, Outcome, Step};

use crate::common::{Agent, World, deploy, ended, failed, line, started};

fn remove(db: &Path) {
    for end in ["db", "db-wal", "db-shm"] {
        let path = db.with_extension(end);
        assert!(!path.exists() || std::fs::remove_file(&path).is_ok(), "{path:?}");
    }
}

async fn log(world: &World, agent: &Agent) -> Vec<LogEntry> {
    let id = agent.machine.as_ref().unwrap();
    world.controller.machine_log(id, 0, 100, Duration::ZERO).await.unwrap().entries
}

fn missing(entry: &LogEntry) -> &str {
    match &entry.kind {
        EventKind::Log { line } => line.split(" are lost").next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_database_that_is_lost_amid_a_run_goes_on_from_where_the_agent_is() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let batch = agent.tells(&order, [started(Step::Plan), ended(Step::Plan, Outcome::Done)]);
    world.send(&batch).await;
    let before = agent.machine.clone();

    world.restart_after(remove).await;
    let unknown = agent.tells(&order, [started(Step::Transfer)]);
    let error = world.controller.events(&unknown, 1).await.unwrap_err();
    assert!(error.to_string().starts_with("there is no machine m-"), "{error}");
    // The agent checks in again; what it had not told yet is of the lost run.
    let fresh = deploy(&world.check_in(&mut agent).await);
    assert_ne!((&agent.machine, &fresh.run), (&before, &order.run));
    let mut resent = unknown;
    resent.machine = agent.machine.clone().unwrap();
    assert_eq!(world.send(&resent).await.seq, 3);
    assert_eq!(world.send(&resent).await.seq, 3);
    let entries = log(&world, &agent).await;
    assert_eq!(missing(&entries[0]), "events 1 to 2 of this boot");
    assert_eq!(entries[1].kind, started(Step::Transfer));
    let placed: Vec<_> = entries.iter().map(|e| (e.record, e.seq, e.run.clone())).collect();
    assert_eq!(placed, [(1, 2, None), (2, 3, None)]);
    assert_eq!(world.controller.metrics().events_lost.get(), 2);

    // From here on failures count.
    let batch = agent.tells(&fresh, [ended(Step::Transfer, failed("bad cable"))]);
    assert_eq!(world.send(&batch).await.seq, 4);
    let run = world.controller.run(&fresh.run).await.unwrap();
    assert_eq!(run.summary.state, RunState::Retrying);
    assert_eq!(deploy(&world.check_in(&mut agent).await).attempt, 2);
}

#[tokio::test]
async fn an_older_database_takes_what_comes_and_says_what_is_missing() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let batch = agent.tells(&order, [started(Step::Plan)]);
    world.send(&batch).await;
    let copy = |db: &Path| db.with_extension("backup");
    world.restart_after(|db| assert!(std::fs::copy(db, copy(db)).is_ok())).await;
    let batch = agent.tells(&order, [ended(Step::Plan, Outcome::Done), line("x"), line("y")]);
    assert_eq!(world.send(&batch).await.seq, 4);

    world
        .restart_after(|db| {
            remove(db);
            std::fs::rename(copy(db), db).unwrap();
        })
        .await;
    let batch = agent.tells(&order, [ended(Step::Transfer, failed("bad cable")), line("z")]);
    assert_eq!(world.send(&batch).await.seq, 6);
    let entries = log(&world, &agent).await;
    let seqs: Vec<_> = entries.iter().map(|entry| (entry.record, entry.seq)).collect();
    assert_eq!(seqs, [(1, 1), (2, 4), (3, 5), (4, 6)]);
    assert_eq!(missing(&entries[1]), "events 2 to 4 of this boot");
    assert_eq!(entries[1].run.as_ref(), Some(&order.run), "the run's log tells it too");
    let run = world.controller.run(&order.run).await.unwrap();
    assert_eq!(run.summary.state, RunState::Retrying);
}

#[tokio::test]
async fn a_boot_that_is_not_known_begins_where_it_is() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let mut batch = agent.tells(&order, [line("1"), line("2"), line("3")]);
    batch.boot = "f".repeat(32);
    batch.events.remove(0);
    assert_eq!(world.send(&batch).await.seq, 3);
    let seqs: Vec<_> = log(&world, &agent).await.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[tokio::test]
async fn events_of_a_run_that_the_machine_does_not_have_are_kept_without_it() {
    let mut world = World::new().await;
    let (mut one, mut two) = (Agent::new(1), Agent::new(2));
    let order = deploy(&world.check_in(&mut one).await);
    world.check_in(&mut two).await;
    let mut ghost = order.clone();
    ghost.run = "r-ghost".parse().unwrap();
    for order in [&ghost, &order] {
        let batch = two.tells(order, [ended(Step::Transfer, failed("bad cable")), line("x")]);
        let last = batch.events[1].seq;
        assert_eq!(world.send(&batch).await.seq, last);
    }
    let entries = log(&world, &two).await;
    assert_eq!(entries.len(), 4);
    assert!(entries.iter().all(|entry| entry.run.is_none() && entry.attempt == 0));
    assert_eq!(entries[1].kind, line("x"));
    // The run of another machine is as it was.
    let run = world.controller.run(&order.run).await.unwrap();
    assert_eq!((run.summary.state, run.steps.len()), (RunState::Ordered, 0));
}
