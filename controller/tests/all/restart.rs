//! The controller is stopped at every point, and nothing is lost or done twice.

use std::time::Duration;

use wire::admin::{MachineState, RunState};
use wire::{Outcome, Step};

use crate::common::{Agent, World, deploy, ended, started};

/// One course of an installation, with a restart before the call of this
/// number, and the answer before it lost: the agent repeats itself.
async fn course(stop: usize) -> (u64, Vec<(RunState, u32)>, MachineState) {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let mut call = 0;
    let mut at_stop = || {
        call += 1;
        call == stop
    };
    let mut order = deploy(&world.check_in(&mut agent).await);
    if at_stop() {
        world.restart().await;
        let again = deploy(&world.check_in(&mut agent).await);
        assert_eq!(again, order);
        order = again;
    }
    for step in [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start] {
        for kind in [started(step), ended(step, Outcome::Done)] {
            let batch = agent.tells(&order, [kind]);
            let seen = world.send(&batch).await;
            if at_stop() {
                world.restart().await;
                assert_eq!(world.send(&batch).await, seen);
            }
        }
    }
    agent.receipt = Some(order.system.image);
    agent.restart();
    let second = deploy(&world.check_in(&mut agent).await);
    if at_stop() {
        world.restart().await;
        assert_eq!(deploy(&world.check_in(&mut agent).await), second);
    }
    let id = agent.machine.clone().unwrap();
    let machine = world.controller.machine(&id).await.unwrap();
    let log = world.controller.machine_log(&id, 0, 100, Duration::ZERO).await.unwrap();
    let records: Vec<_> = log.entries.iter().map(|entry| entry.record).collect();
    assert_eq!(records, (1..=10).collect::<Vec<_>>());
    let runs = machine.runs.iter().map(|run| (run.state, run.attempt)).collect();
    (log.next, runs, machine.summary.state)
}

#[tokio::test]
async fn a_restart_at_any_point_changes_nothing() {
    let undisturbed = course(usize::MAX).await;
    assert_eq!(
        undisturbed,
        (
            10,
            vec![(RunState::AlreadyInstalled, 1), (RunState::Succeeded, 1)],
            MachineState::Installed
        )
    );
    for stop in 1..=12 {
        assert_eq!(course(stop).await, undisturbed, "stopped after call {stop}");
    }
}

#[tokio::test]
async fn a_controller_that_is_dropped_amid_a_call_has_done_all_or_nothing() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let batch = agent.tells(&order, [started(Step::Plan), ended(Step::Plan, Outcome::Done)]);
    // Each poll takes the call further; it is dropped after ever more of them.
    for polls in 0..40 {
        let mut call = Box::pin(world.controller.events(&batch, 5));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(call.as_mut().poll(context).is_ready())
            });
            if polled.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        let id = agent.machine.as_ref().unwrap();
        let log = world.controller.machine_log(id, 0, 100, Duration::ZERO).await.unwrap();
        assert!(log.entries.is_empty() || log.entries.len() == 2, "{:?}", log.entries);
    }
    assert_eq!(world.send(&batch).await.seq, 2);
}

#[tokio::test]
async fn a_database_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.db");
    std::fs::write(&path, "not a database, but long enough to be looked at as one".repeat(100))
        .unwrap();
    let error = controller::Db::open(&path).await.unwrap_err();
    assert!(error.to_string().starts_with("the controller's database"), "{error}");
}
