//! Rules that give a machine several images, each on a disk of its own.

use std::collections::BTreeMap;

use wire::admin::{LabelChange, RunState};
use wire::{DeployOrder, Digest, DiskChoice, ImageOrder, Outcome, Step};

use crate::builds::until;
use crate::common::{Agent, World, deploy, ended, hold, receipt, started, two_disks};
use crate::workshop::image;

const POLICY: &str = r#"
[[rule]]
name = "made"
when = 'label.role == "made"'
set = [
  { recipe = "b.toml", disk = { serial = "S" } },
  { recipe = "a.toml", disk = { serial = "D" } },
]

[[rule]]
name = "ghost"
when = 'label.role == "ghost"'
set = [
  { recipe = "a.toml", disk = { serial = "S" } },
  { image = "ghost:1", disk = { serial = "D" } },
]

[[rule]]
name = "plain"
set = [{ image = "base:1", disk = { serial = "S" } }, { image = "web:2", disk = { serial = "D" } }]
start = "reboot"
"#;

const STEPS: [Step; 5] = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start];

fn agent(number: u32) -> Agent {
    let mut agent = Agent::new(number);
    agent.inventory.disks = two_disks();
    agent
}

fn choice(serial: &str) -> DiskChoice {
    DiskChoice { serial: Some(serial.into()), ..DiskChoice::default() }
}

fn order(reference: &str, image: Digest, serial: &str) -> ImageOrder {
    ImageOrder { image, reference: reference.parse().unwrap(), disk: choice(serial) }
}

/// What an agent does with an order.
async fn install(world: &mut World, agent: &mut Agent, order: &DeployOrder) {
    for step in STEPS {
        let batch = agent.tells(order, [started(step), ended(step, Outcome::Done)]);
        world.send(&batch).await;
    }
    agent.receipt = Some(order.system.image);
    agent.inventory.disks[1].receipt = Some(receipt("D", order.others[0].image));
}

async fn label(world: &World, agent: &Agent, role: &str) {
    let set = BTreeMap::from([("role".to_owned(), role.to_owned())]);
    let change = LabelChange { set, remove: Vec::new() };
    world.controller.label(agent.machine.as_ref().unwrap(), &change).await.unwrap();
}

#[tokio::test]
async fn a_machine_gets_all_images_in_one_order_and_finds_all_of_them_at_its_next_boot() {
    let mut world = World::with(POLICY).await;
    let mut agent = agent(1);
    let first = deploy(&world.check_in(&mut agent).await);
    let (base, web) = (Digest([1; 32]), Digest([2; 32]));
    assert_eq!(first.system, order("base:1", base, "S"));
    assert_eq!(first.others, [order("web:2", web, "D")]);
    assert_eq!(first.start, wire::Start::Reboot);
    world.restart().await;
    assert_eq!(deploy(&world.check_in(&mut agent).await), first, "the record has all of them");
    install(&mut world, &mut agent, &first).await;

    let run = world.controller.run(&first.run).await.unwrap();
    assert_eq!((run.summary.state, &run.summary.others), (RunState::Succeeded, &first.others));
    assert_eq!((run.summary.image, run.disk), (base, choice("S")));
    let client = controller::BootClient { mac: agent.mac(), uuid: None, place: None };
    let boots = world.controller.boot_decision(&client).await.unwrap();
    assert_eq!(boots.decision, controller::BootDecision::Disk, "{}", boots.reason);

    agent.restart();
    let again = deploy(&world.check_in(&mut agent).await);
    let run = world.controller.run(&again.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::AlreadyInstalled);
    // A second disk that was changed is installed again, by an order for all.
    agent.restart();
    agent.inventory.disks[1].receipt = None;
    let repaired = deploy(&world.check_in(&mut agent).await);
    let run = world.controller.run(&repaired.run).await.unwrap().summary;
    assert_eq!((run.state, run.others), (RunState::Ordered, first.others));
}

#[tokio::test]
async fn what_is_missing_of_a_set_is_built_and_the_order_has_all() {
    let mut world = World::with(POLICY).await;
    let mut agent = agent(1);
    world.check_in(&mut agent).await;
    label(&world, &agent, "made").await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.starts_with("rule \"made\" wants built/b:"), "{reason}");
    assert!(reason.contains("; and built/a:"), "{reason}");
    // Both are asked for at once, and the machine waits for both.
    world.workshop.end(1);
    let metrics = world.controller.metrics().clone();
    until("one of two", async || metrics.builds_succeeded.get() == 1).await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert_eq!(reason.matches("built/").count(), 1, "{reason}");
    let id = agent.machine.clone().unwrap();
    let why = world.controller.why(&id, world.now).await.unwrap();
    let builds: Vec<_> = why.rules[0].builds.iter().map(|build| build.image.is_some()).collect();
    assert_eq!(builds.iter().filter(|there| **there).count(), 1, "{:?}", why.rules[0].builds);
    assert!(why.rules[1].builds.is_empty(), "it does not match");
    world.workshop.end(1);
    world.built(2).await;

    let made = deploy(&world.check_in(&mut agent).await);
    let builds = world.controller.why(&id, world.now).await.unwrap().rules[0].builds.clone();
    assert_eq!(
        builds.iter().map(|b| b.configuration.recipe.as_str()).collect::<Vec<_>>(),
        ["b", "a"]
    );
    for (image_order, build) in made.images().zip(&builds) {
        assert_eq!(image_order.image, image(build.configuration.key));
        assert_eq!(image_order.reference, build.reference);
    }
    let log = world.controller.run_log(&made.run, 0, 10, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(log.entries.len(), 2, "what each was built for: {:?}", log.entries);
    assert_eq!(world.workshop.begun().len(), 2);
}

#[tokio::test]
async fn nothing_is_built_for_a_set_of_which_an_image_is_not_there() {
    let mut world = World::with(POLICY).await;
    let mut agent = agent(1);
    world.check_in(&mut agent).await;
    label(&world, &agent, "ghost").await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.starts_with("rule \"ghost\" wants the image ghost:1, which"), "{reason}");
    assert_eq!(world.workshop.begun(), []);
    world.images.0.lock().unwrap().insert("ghost:1".into(), Digest([9; 32]));
    assert!(hold(&world.check_in(&mut agent).await).contains("wants built/a:"));
    world.workshop.end(1);
    world.built(1).await;
    let order = deploy(&world.check_in(&mut agent).await);
    assert_eq!(order.others[0].image, Digest([9; 32]));

    // One build that failed is reason enough to wait, and a release tries it again.
    world.workshop.change("b.toml", |recipe| recipe.broken = Some("no such package"));
    world.workshop.end(10);
    label(&world, &agent, "made").await;
    hold(&world.check_in(&mut agent).await);
    world.failed(1).await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("which could not be built: no such package"), "{reason}");
    world.workshop.change("b.toml", |recipe| recipe.broken = None);
    let id = agent.machine.clone().unwrap();
    world.controller.release(&id, world.now).await.unwrap();
    hold(&world.check_in(&mut agent).await);
    // The other recipe uses the label, so that its image was another before.
    world.built(3).await;
    assert_eq!(deploy(&world.check_in(&mut agent).await).others.len(), 1);
}
