//! Operators give machines images, and take machines out of service.

use wire::admin::{
    DeployRequest, Deployment, HoldRequest, LabelChange, MachineState, MachineSummary, RunState,
};
use wire::{Digest, DiskChoice, Order, Outcome, Start, Step};

use crate::common::{Agent, World, deploy, ended, failed, role};
use controller::{BootClient, BootDecision};

fn gives(reference: &str) -> DeployRequest {
    let reference = reference.parse().unwrap();
    let image = Deployment { reference, disk: DiskChoice::default(), start: Start::PowerOff };
    DeployRequest { image: Some(image) }
}

async fn on(world: &World, expression: &str) -> Vec<MachineSummary> {
    world.controller.machines(None, 10, Some(expression)).await.unwrap().machines
}

#[tokio::test]
async fn an_operators_image_goes_before_the_policy_until_it_is_taken_back() {
    let mut world = World::new().await;
    let (mut agent, mut other) = (Agent::new(1), Agent::new(2));
    let first = deploy(&world.check_in(&mut agent).await);
    assert_eq!(first.system.image, Digest([1; 32]));
    let id = agent.machine.clone().unwrap();
    let told = world.controller.deploy(&id, &gives("web:2")).await.unwrap();
    assert_eq!(told.deploy.unwrap().reference.to_string(), "web:2");

    let second = deploy(&world.check_in(&mut agent).await);
    assert_eq!((second.system.image, second.start), (Digest([2; 32]), Start::PowerOff));
    assert_ne!(second.run, first.run);
    let before = world.controller.run(&first.run).await.unwrap();
    assert_eq!(before.summary.state, RunState::Superseded);
    assert_eq!(world.controller.run(&second.run).await.unwrap().summary.rule, "ingot deploy");
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert_eq!((why.winner.as_deref(), why.deploy.is_some()), (Some("rest"), true));
    assert!(why.order.starts_with("deploy web:2"), "{}", why.order);
    // Nobody else, and nothing forgotten.
    assert_eq!(deploy(&world.check_in(&mut other).await).system.image, Digest([1; 32]));
    world.restart().await;
    assert_eq!(deploy(&world.check_in(&mut agent).await), second);

    world.controller.deploy(&id, &DeployRequest::default()).await.unwrap();
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, Digest([1; 32]));
}

#[tokio::test]
async fn a_hold_goes_before_an_operators_image_and_what_is_not_there_is_refused() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    let id = agent.machine.clone().unwrap();
    let error = world.controller.deploy(&id, &gives("nowhere:1")).await.unwrap_err();
    assert!(error.to_string().contains("the store has no image nowhere:1"), "{error}");
    let nobody = "m-nobody".parse().unwrap();
    let error = world.controller.deploy(&nobody, &gives("web:2")).await.unwrap_err();
    assert!(error.to_string().contains("m-nobody"), "{error}");

    world.controller.deploy(&id, &gives("web:2")).await.unwrap();
    world.controller.hold(&id, &HoldRequest { reason: "fan".into() }).await.unwrap();
    assert!(matches!(world.check_in(&mut agent).await.order, Order::Hold(_)));
    world.controller.release(&id, world.now).await.unwrap();
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, Digest([2; 32]));
    // The image goes: the machine waits for it, as it would for a rule's.
    world.images.0.lock().unwrap().remove("web:2");
    agent.restart();
    let Order::Hold(hold) = world.check_in(&mut agent).await.order else { panic!() };
    assert!(hold.reason.contains("web:2"), "{}", hold.reason);
}

#[tokio::test]
async fn machines_are_chosen_by_their_facts() {
    let mut world = World::new().await;
    let mut agents: Vec<_> = (1..=3).map(Agent::new).collect();
    for agent in &mut agents {
        world.check_in(agent).await;
    }
    let ids: Vec<_> = agents.iter().map(|agent| agent.machine.clone().unwrap()).collect();
    world.controller.label(&ids[1], &role("web")).await.unwrap();
    let found = on(&world, "label.role == \"web\" and disk.size > 1 GiB").await;
    assert_eq!(found.iter().map(|m| &m.id).collect::<Vec<_>>(), [&ids[1]]);
    assert_eq!(on(&world, "system.manufacturer == \"Acme\"").await.len(), 3);
    world.controller.retire(&ids[0], world.now).await.unwrap();
    assert_eq!(on(&world, "system.manufacturer == \"Acme\"").await.len(), 2);
    for (wrong, said) in [("label.role =", "label.role ="), ("disk.seize > 1", "disk.seize")] {
        let error = world.controller.machines(None, 10, Some(wrong)).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_retired_machine_stays_on_record_and_comes_back_as_another() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let id = agent.machine.clone().unwrap();
    let told = world.controller.retire(&id, world.now).await.unwrap();
    assert_eq!(told.summary.state, MachineState::Retired);
    assert!(told.identifiers.is_empty());
    let run = world.controller.run(&order.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::Superseded);
    assert!(run.cause.unwrap().contains("retired"));
    // Twice is once.
    assert_eq!(world.controller.retire(&id, world.now).await.unwrap(), told);

    // Its firmware is nobody that is known, and nothing can be done to it.
    let client = BootClient { mac: agent.mac(), uuid: None, place: None };
    let boot = world.controller.boot_decision(&client).await.unwrap();
    assert_eq!((boot.decision, boot.machine), (BootDecision::Loader, None));
    let error = world.controller.label(&id, &LabelChange::default()).await.unwrap_err();
    assert!(error.to_string().contains("was retired"), "{error}");
    let error = world.controller.deploy(&id, &gives("web:2")).await.unwrap_err();
    assert!(error.to_string().contains("was retired"), "{error}");

    agent.restart();
    world.check_in(&mut agent).await;
    assert_ne!(agent.machine, Some(id.clone()));
    assert_eq!(world.controller.machine(&id).await.unwrap(), told);
}

#[tokio::test]
async fn late_events_do_not_bring_a_retired_machine_back() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    deploy(&world.check_in(&mut agent).await);
    world.install(&mut agent).await;
    agent.restart();
    let found = deploy(&world.check_in(&mut agent).await);
    let id = agent.machine.clone().unwrap();
    world.controller.retire(&id, world.now).await.unwrap();
    for outcome in [Outcome::Done, failed("kexec")] {
        let batch = agent.tells(&found, [ended(Step::Start, outcome)]);
        world.send(&batch).await;
        let machine = world.controller.machine(&id).await.unwrap().summary;
        assert_eq!(machine.state, MachineState::Retired);
        let run = world.controller.run(&found.run).await.unwrap().summary;
        assert!(run.state.is_over(), "{run:?}");
    }
}
