//! From check-in to an installed machine, and all that comes between.

use std::collections::BTreeMap;

use controller::{BootClient, BootDecision};
use wire::admin::{LabelChange, MachineState, RunState};
use wire::{Digest, EventKind, Outcome, Step};

use crate::common::{Agent, World, deploy, ended, failed, hold, line, role, started};

#[tokio::test]
async fn a_machine_gets_its_image_once() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = world.install(&mut agent).await;
    assert_eq!((order.system.image, order.attempt), (Digest([1; 32]), 1));
    let run = world.controller.run(&order.run).await.unwrap();
    assert_eq!((run.summary.state, run.summary.rule.as_str()), (RunState::Succeeded, "rest"));
    let steps: Vec<_> = run.steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start]);

    // The next boot finds it there: an order all the same, and a run in the record.
    agent.restart();
    let again = deploy(&world.check_in(&mut agent).await);
    assert_ne!(again.run, order.run);
    assert_eq!(again.system.image, order.system.image);
    let machine = world.controller.machine(agent.machine.as_ref().unwrap()).await.unwrap();
    let states: Vec<_> = machine.runs.iter().map(|run| run.state).collect();
    assert_eq!(states, [RunState::AlreadyInstalled, RunState::Succeeded]);
    assert_eq!(machine.summary.state, MachineState::Installed);
}

#[tokio::test]
async fn labels_count_from_the_next_check_in() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let first = world.check_in(&mut agent).await;
    assert_eq!(deploy(&first).system.reference.to_string(), "base:1");
    world.controller.label(&first.machine, &role("web")).await.unwrap();
    let second = deploy(&world.check_in(&mut agent).await);
    assert_eq!(second.system.reference.to_string(), "web:2");
    let before = world.controller.run(&deploy(&first).run).await.unwrap();
    assert_eq!(before.summary.state, RunState::Superseded);
    let change = LabelChange { set: BTreeMap::new(), remove: vec!["role".into()] };
    world.controller.label(&first.machine, &change).await.unwrap();
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.reference.to_string(), "base:1");
}

#[tokio::test]
async fn whoever_gets_no_image_is_told_why() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let id = world.check_in(&mut agent).await.machine;
    world.controller.label(&id, &role("ghost")).await.unwrap();
    let reason = hold(&world.check_in(&mut agent).await);
    assert_eq!(
        reason,
        "rule \"ghost\" wants the image ghost:1, which the store does not have: `ingot build \
         RECIPE -t ghost:1` or `ingot import FILE -t ghost:1`; this machine looks again every 15 s"
    );
    // The image comes, and so does the order.
    world.images.0.lock().unwrap().insert("ghost:1".into(), Digest([3; 32]));
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, Digest([3; 32]));

    world.controller.label(&id, &role("broken")).await.unwrap();
    let error = world.controller.check_in(&agent.asks(), 1).await.unwrap_err();
    assert_eq!(error.to_string(), "the store could not tell which image broken is: try again");

    let mut other = Agent::new(2);
    other.inventory.system.manufacturer = Some("Ancient".into());
    assert_eq!(hold(&world.check_in(&mut other).await), "too old");
    let state = world.controller.machine(other.machine.as_ref().unwrap()).await.unwrap();
    assert_eq!(state.summary.state, MachineState::Failed);
    other.inventory.system.manufacturer = Some("Nobody".into());
    assert!(hold(&world.check_in(&mut other).await).starts_with("no rule of the policy matches"));
}

#[tokio::test]
async fn three_failures_hold_and_a_release_begins_anew() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    for attempt in 1..=3 {
        let order = deploy(&world.check_in(&mut agent).await);
        assert_eq!(order.attempt, attempt);
        let events = [started(Step::Transfer), ended(Step::Transfer, failed("bad cable"))];
        let batch = agent.tells(&order, events);
        world.send(&batch).await;
    }
    let id = agent.machine.clone().unwrap();
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("failed 3 times, the last time because: bad cable"), "{reason}");
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert_eq!(why.order, format!("hold: {reason}"));
    assert_eq!(why.winner.as_deref(), Some("rest"));
    world.controller.release(&id, world.now).await.unwrap();
    let order = deploy(&world.check_in(&mut agent).await);
    assert_eq!(order.attempt, 1);
    assert_eq!(world.controller.metrics().attempts_failed.get(), 3);
    assert_eq!(world.controller.metrics().runs_failed.get(), 1);
}

#[tokio::test]
async fn firmware_is_sent_to_the_loader_until_the_disk_has_what_it_shall_have() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let client =
        |agent: &Agent| BootClient { mac: agent.mac().to_uppercase(), uuid: None, place: None };
    let boots = async |world: &World, agent: &Agent| {
        world.controller.boot_decision(&client(agent)).await.unwrap().decision
    };
    assert_eq!(boots(&world, &agent).await, BootDecision::Loader);
    world.check_in(&mut agent).await;
    assert_eq!(boots(&world, &agent).await, BootDecision::Loader);
    world.install(&mut agent).await;
    // The rule says that it is started by a reboot.
    let answer = world.controller.boot_decision(&client(&agent)).await.unwrap();
    assert_eq!(answer.decision, BootDecision::Disk, "{}", answer.reason);
    assert_eq!(answer.machine, agent.machine);
    // A tag that moves sends it to the loader again.
    world.images.0.lock().unwrap().insert("base:1".into(), Digest([9; 32]));
    assert_eq!(boots(&world, &agent).await, BootDecision::Loader);
}

#[tokio::test]
async fn firmware_that_may_be_of_several_machines_is_sent_to_the_loader() {
    let mut world = World::new().await;
    let (mut one, mut two) = (Agent::new(1), Agent::new(2));
    two.inventory.nics = one.inventory.nics.clone();
    world.install(&mut one).await;
    world.install(&mut two).await;
    let ask = async |uuid: Option<&str>| {
        let client = BootClient { mac: one.mac(), uuid: uuid.map(str::to_owned), place: None };
        world.controller.boot_decision(&client).await.unwrap()
    };
    assert_eq!(ask(None).await.decision, BootDecision::Loader);
    // The UUID tells them apart, in either byte order.
    let answer = ask(Some("00112233-4455-6677-8899-AABB00000002")).await;
    assert_eq!((answer.decision, &answer.machine), (BootDecision::Disk, &two.machine));
    let answer = ask(Some("33221100-5544-7766-8899-aabb00000001")).await;
    assert_eq!((answer.decision, &answer.machine), (BootDecision::Disk, &one.machine));
    let answer = ask(Some("99999999-5544-7766-8899-aabb00000001")).await;
    assert_eq!((answer.decision, answer.machine), (BootDecision::Loader, None));
}

#[tokio::test]
async fn a_run_shows_its_plan_and_how_far_it_is() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let plan = EventKind::Planned {
        image: order.system.image,
        disk: "/dev/vda".into(),
        image_bytes: 100,
        present_bytes: 40,
        fetch_bytes: 30,
        requests: 2,
    };
    let step = Step::Transfer;
    let progress = EventKind::StepProgress { step, done_bytes: 50, total_bytes: 100 };
    let events = [plan.clone(), started(step), line("hello"), progress];
    let batch = agent.tells(&order, events);
    world.send(&batch).await;
    let run = world.controller.run(&order.run).await.unwrap();
    assert_eq!(run.plan, Some(plan));
    assert_eq!(run.summary.state, RunState::Transferring);
    assert_eq!((run.steps[0].done_bytes, run.steps[0].outcome.clone()), (50, None));
    let batch = agent.tells(&order, [ended(step, Outcome::Done)]);
    world.send(&batch).await;
    let run = world.controller.run(&order.run).await.unwrap();
    assert_eq!(run.steps[0].outcome, Some(Outcome::Done));
}
