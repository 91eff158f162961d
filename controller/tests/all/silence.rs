//! A machine that is not heard of any more in the middle of a run.

use wire::admin::{MachineState, RunState};
use wire::{Outcome, Step};

use crate::common::{Agent, World, deploy, ended, hold, started};

const MINUTE_MS: u64 = 60_000;

impl World {
    /// Time passes, and it is looked for silent machines every minute.
    async fn pass_minutes(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.now += MINUTE_MS;
            self.controller.end_silent_attempts(self.now).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_attempt_ends_when_nothing_is_heard_for_an_hour_and_the_next_begins_at_a_check_in() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    for attempt in 1..=3 {
        let order = deploy(&world.check_in(&mut agent).await);
        assert_eq!(order.attempt, attempt);
        world.send(&agent.tells(&order, [started(Step::Transfer)])).await;
        world.pass_minutes(59).await;
        let run = world.controller.run(&order.run).await.unwrap().summary;
        assert_eq!((run.state, run.cause.is_some()), (RunState::Transferring, attempt > 1));
        world.restart().await;
        world.pass_minutes(2).await;
        let run = world.controller.run(&order.run).await.unwrap().summary;
        let cause = run.cause.unwrap();
        let said = "nothing was heard of the machine for 60 minutes while transferring";
        assert!(cause.contains(said), "{cause}");
        let last = if attempt < 3 { RunState::Retrying } else { RunState::Failed };
        assert_eq!(run.state, last);
        // It waits for the machine, however long that takes.
        world.pass_minutes(200).await;
        let after = world.controller.run(&order.run).await.unwrap().summary;
        assert_eq!((after.state, after.cause.as_ref()), (last, Some(&cause)));
        agent.restart();
    }
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("nothing was heard"), "{reason}");
    let id = agent.machine.clone().unwrap();
    assert_eq!(world.controller.machine(&id).await.unwrap().summary.state, MachineState::Held);
}

#[tokio::test]
async fn who_was_cut_off_and_worked_on_is_believed_again() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    world.send(&agent.tells(&order, [started(Step::Transfer)])).await;
    world.pass_minutes(90).await;
    let state = async |world: &World| world.controller.run(&order.run).await.unwrap().summary.state;
    assert_eq!(state(&world).await, RunState::Retrying);
    let rest = [
        ended(Step::Transfer, Outcome::Done),
        started(Step::Verify),
        ended(Step::Verify, Outcome::Done),
        started(Step::Start),
        ended(Step::Start, Outcome::Done),
    ];
    world.send(&agent.tells(&order, rest)).await;
    assert_eq!(state(&world).await, RunState::Succeeded);
    // What is over, and who waits, may be silent for ever.
    world.pass_minutes(300).await;
    assert_eq!(state(&world).await, RunState::Succeeded);
    let mut other = Agent::new(2);
    other.inventory.system.manufacturer = Some("Nobody".into());
    hold(&world.check_in(&mut other).await);
    let id = other.machine.clone().unwrap();
    let before = world.controller.machine(&id).await.unwrap();
    world.pass_minutes(300).await;
    assert_eq!(world.controller.machine(&id).await.unwrap(), before);
}
