//! Images that one of the machines makes which need them.

mod course;

use std::collections::BTreeMap;
use std::time::Duration;

use controller::ControllerError;
use wire::admin::{HoldRequest, LabelChange, MachineState, RunState};
use wire::api::{CheckedIn, Made};
use wire::{Configuration, Digest, EventKind, FactValue, Facts, MakeOrder, Order, Outcome, Step};

use crate::common::{Agent, World, deploy, ended, failed, hold, line, started};
use crate::workshop::image;

const POLICY: &str = r#"
[[rule]]
name = "other"
when = 'label.role == "other"'
image = "web:2"

[[rule]]
name = "never"
when = 'label.role == "never"'
recipe = "gpu.toml"
missing = "fail"

[[rule]]
name = "data"
when = 'label.role == "data"'
set = [
  { image = "base:1", disk = { serial = "S" } },
  { recipe = "gpu.toml", missing = "on-target", disk = { serial = "D" } },
]

[[rule]]
name = "gpu"
when = 'system.manufacturer == "Acme"'
recipe = "gpu.toml"
missing = "on-target"
disk = { size-min = "1 GiB" }
"#;

const MAKING: [Step; 6] =
    [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Script, Step::Capture];
/// What machines make of it.
const MADE: Digest = Digest([0x77; 32]);

/// A world in which the base is built, and this machine has its order to make the rest.
async fn world() -> (World, Agent, MakeOrder) {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("(recipe gpu for label.role not reported); "), "{reason}");
    world.workshop.end(100);
    world.built(1).await;
    let order = make(&world.check_in(&mut agent).await);
    (world, agent, order)
}

fn make(answer: &CheckedIn) -> MakeOrder {
    match &answer.order {
        Order::Make(order) => *order.clone(),
        other => panic!("expected an order to make, got {other:?}"),
    }
}

fn facts(agent: &Agent, role: Option<&str>) -> Facts {
    let mut facts = agent.inventory.facts();
    facts.extend(role.map(|role| ("label.role".to_owned(), FactValue::Text(role.to_owned()))));
    facts
}

fn made(agent: &Agent, order: &MakeOrder, image: Digest) -> Made {
    let (machine, boot) = (agent.machine.clone().unwrap(), agent.boot_name());
    Made { machine, boot, run: order.run.clone(), attempt: order.attempt, image }
}

impl World {
    async fn tell(&mut self, agent: &mut Agent, order: &MakeOrder, kinds: Vec<EventKind>) {
        let batch = agent.tells_of(&order.run, order.attempt, kinds);
        self.send(&batch).await;
    }

    /// The image is in the store, as an agent sends it.
    fn store(&self, image: Digest) {
        self.images.1.lock().unwrap().insert(image);
    }

    /// What the name of a key means.
    fn named(&self, configuration: &Configuration) -> Option<Digest> {
        self.images.0.lock().unwrap().get(&configuration.reference().to_string()).copied()
    }

    /// An agent does what it was told.
    async fn make(&mut self, agent: &mut Agent, order: &MakeOrder) {
        for step in MAKING {
            self.tell(agent, order, vec![started(step), ended(step, Outcome::Done)]).await;
        }
        self.store(MADE);
        self.now += 10;
        self.controller.made(&made(agent, order, MADE), self.now).await.unwrap();
    }

    /// An attempt fails in the script.
    async fn break_off(&mut self, agent: &mut Agent, order: &MakeOrder) {
        let lines = ["unpacking", "E: no such\tdevice"].map(line);
        let mut kinds = vec![started(Step::Script)];
        kinds.extend(lines);
        kinds.push(ended(Step::Script, failed("the script ended with exit status: 2\nlast lines")));
        self.tell(agent, order, kinds).await;
    }

    async fn role(&self, agent: &Agent, role: &str) {
        let set = BTreeMap::from([("role".to_owned(), role.to_owned())]);
        let change = LabelChange { set, remove: Vec::new() };
        self.controller.label(agent.machine.as_ref().unwrap(), &change).await.unwrap();
    }

    async fn release_of(&self, agent: &Agent) {
        self.controller.release(agent.machine.as_ref().unwrap(), self.now).await.unwrap();
    }

    async fn state(&self, order: &MakeOrder) -> RunState {
        self.controller.run(&order.run).await.unwrap().summary.state
    }
}

#[tokio::test]
async fn one_machine_makes_the_image_and_all_that_need_it_get_it() {
    let (mut world, mut agent, order) = world().await;
    let base = world.workshop.configuration("gpu.toml", &facts(&agent, None));
    let whole = world.workshop.whole("gpu.toml", &facts(&agent, None));
    assert_ne!(base.key, whole.key);
    assert_eq!((order.base.image, &order.base.reference), (image(base.key), &base.reference()));
    assert_eq!(order.base.disk.size_bytes_min, Some(1 << 30));
    assert_eq!((&order.making.configuration, order.making.timeout_secs), (&whole, 60));
    assert_eq!(
        (order.making.script.as_str(), &order.making.environment["INGOT_A"]),
        ("#!/bin/sh\necho 1\n", &"b".to_owned())
    );
    assert!(order.reason.contains("which was not made yet: this machine makes it"));
    // Asked again, also by another server on the same record, it is told the same.
    assert_eq!(make(&world.check_in(&mut agent).await), order);
    world.restart().await;
    assert_eq!(make(&world.check_in(&mut agent).await), order);
    let run = world.controller.run(&order.run).await.unwrap().summary;
    assert_eq!((run.makes.as_ref(), run.image), (Some(&whole), image(base.key)));
    let id = agent.machine.clone().unwrap();
    let machine = world.controller.machine(&id).await.unwrap().summary;
    assert_eq!(
        (machine.state, machine.reference),
        (MachineState::Deploying, Some(whole.reference()))
    );

    let mut waiting: Vec<_> = (2..5).map(Agent::new).collect();
    for other in &mut waiting {
        let reason = hold(&world.check_in(other).await);
        let said = format!("which was not made yet: machine {id} makes it now (run {}", order.run);
        assert!(reason.contains(&said), "{reason}");
    }
    let why = world.controller.why(waiting[0].machine.as_ref().unwrap(), world.now).await.unwrap();
    assert!(why.order.contains(&format!("machine {id} makes it now")), "{}", why.order);
    let standing = &why.rules[3].builds[0].standing;
    assert_eq!(*standing, format!("machine {id} makes it (run {})", order.run));
    // Another product is another key, and another maker.
    let mut different = Agent::new(9);
    different.inventory.system.product = Some("X2".into());
    assert_ne!(make(&world.check_in(&mut different).await).making.configuration.key, whole.key);

    for (step, state) in [
        (Step::Seal, RunState::Sealing),
        (Step::Script, RunState::Scripting),
        (Step::Capture, RunState::Capturing),
    ] {
        world.tell(&mut agent, &order, vec![started(step)]).await;
        assert_eq!(world.state(&order).await, state);
    }
    world.make(&mut agent, &order).await;
    assert_eq!(world.state(&order).await, RunState::Succeeded);
    let machine = world.controller.machine(&id).await.unwrap().summary;
    assert_eq!(machine.state, MachineState::Held, "it has not got it yet");
    assert!(machine.reason.unwrap().starts_with("it made built/gpu:"));
    // What comes late changes nothing.
    world.tell(&mut agent, &order, vec![ended(Step::Capture, failed("no answer"))]).await;
    assert_eq!(world.state(&order).await, RunState::Succeeded);

    waiting.push(agent);
    for agent in &mut waiting {
        let order = world.install(agent).await;
        assert_eq!((order.system.image, &order.system.reference), (MADE, &whole.reference()));
        let log = world.controller.run_log(&order.run, 0, 1, Duration::ZERO).await.unwrap();
        let EventKind::Log { line } = &log.entries[0].kind else { panic!("{log:?}") };
        assert!(
            line.starts_with(&format!(
                "{} was made by machine {id} for recipe gpu",
                whole.reference()
            )),
            "{line}"
        );
    }
    assert_eq!(world.controller.metrics().runs_made.get(), 1);
    assert_eq!(world.controller.metrics().runs_succeeded.get(), 4);
    assert_eq!(world.workshop.begun(), [base]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_machines_that_ask_at_once_one_makes() {
    let (world, _, order) = world().await;
    // The only one that makes it does so no more.
    let change = HoldRequest { reason: "lunch".into() };
    let run = world.controller.run(&order.run).await.unwrap().summary;
    world.controller.hold(&run.machine, &change).await.unwrap();
    world.controller.check_in(&Agent::new(1).asks(), world.now).await.unwrap();
    let now = world.now;
    let asks = (10..60).map(|number| {
        let controller = world.controller.clone();
        tokio::spawn(async move { controller.check_in(&Agent::new(number).asks(), now).await })
    });
    let mut makers = 0;
    for ask in asks.collect::<Vec<_>>() {
        match ask.await.unwrap().unwrap().order {
            Order::Make(order) => {
                makers += 1;
                assert_eq!(order.attempt, 1);
            }
            Order::Hold(hold) => assert!(hold.reason.contains("makes it now"), "{hold:?}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(makers, 1);
}

#[tokio::test]
async fn a_maker_that_vanishes_gives_the_key_free() {
    let (mut world, mut agent, order) = world().await;
    world.tell(&mut agent, &order, vec![started(Step::Script)]).await;
    let mut next = Agent::new(2);
    let began = world.now;
    // Its script may take a minute; ten more are given to it.
    world.now = began + 660_000 - 20;
    assert!(hold(&world.check_in(&mut next).await).contains("last heard of 659 s ago"));
    let taken = make(&world.check_in(&mut next).await);
    assert_eq!(taken.making.configuration, order.making.configuration);
    let run = world.controller.run(&order.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::Superseded);
    assert!(run.cause.unwrap().starts_with("nothing was heard of this machine for 660 s"));
    let id = agent.machine.clone().unwrap();
    assert_eq!(world.controller.machine(&id).await.unwrap().summary.state, MachineState::Held);
    // It comes back with an image that nobody waits for any more.
    world.store(MADE);
    let late = made(&agent, &order, MADE);
    let error = world.controller.made(&late, world.now).await.unwrap_err();
    assert!(matches!(error, ControllerError::Conflict(_)), "{error}");
    assert_eq!(world.named(&order.making.configuration), None);
    let maker = next.machine.clone().unwrap();
    assert!(
        hold(&world.check_in(&mut agent).await).contains(&format!("machine {maker} makes it now"))
    );
    // One that is heard of keeps its turn for as long as it takes.
    for _ in 0..5 {
        world.now += 600_000;
        world.tell(&mut next, &taken, vec![line("still at it")]).await;
        hold(&world.check_in(&mut agent).await);
    }
    let image = Digest([9; 32]);
    world.store(image);
    world.controller.made(&made(&next, &taken, image), world.now).await.unwrap();
    // Nor does it take the name away from what is recorded.
    let error = world.controller.made(&late, world.now).await.unwrap_err();
    assert!(matches!(error, ControllerError::Conflict(_)), "{error}");
    assert_eq!(world.named(&order.making.configuration), Some(image));
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, image);
}

#[tokio::test]
async fn a_maker_that_gets_something_else_gives_the_key_free() {
    let (mut world, mut agent, order) = world().await;
    let mut next = Agent::new(2);
    hold(&world.check_in(&mut next).await);
    world.role(&agent, "other").await;
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, Digest([2; 32]));
    assert_eq!(world.state(&order).await, RunState::Superseded);
    let taken = make(&world.check_in(&mut next).await);
    // An operator's hold counts from the next check-in, and does not interrupt.
    let request = HoldRequest { reason: "lunch".into() };
    let id = next.machine.clone().unwrap();
    world.controller.hold(&id, &request).await.unwrap();
    let mut third = Agent::new(3);
    assert!(hold(&world.check_in(&mut third).await).contains("makes it now"));
    assert_eq!(hold(&world.check_in(&mut next).await), "lunch");
    assert_eq!(world.state(&taken).await, RunState::Superseded);
    make(&world.check_in(&mut third).await);
    // Nothing is made on a machine that is held.
    assert_eq!(hold(&world.check_in(&mut next).await), "lunch");
}

#[tokio::test]
async fn three_failures_are_told_to_all_that_need_the_image_and_a_release_tries_again() {
    let (mut world, mut agent, mut order) = world().await;
    let mut other = Agent::new(2);
    for attempt in 1..=3 {
        assert_eq!(order.attempt, attempt);
        hold(&world.check_in(&mut other).await);
        world.break_off(&mut agent, &order).await;
        if attempt < 3 {
            order = make(&world.check_in(&mut agent).await);
        }
    }
    let id = agent.machine.clone().unwrap();
    let machine = world.controller.machine(&id).await.unwrap().summary;
    assert_eq!(machine.state, MachineState::Held);
    let said = format!(
        "which could not be built: machine {id} tried 3 times (run {}): the script ended with exit \
         status: 2. It said last: unpacking / E: no such device. Mend the recipe",
        order.run
    );
    for restart in [false, true] {
        if restart {
            world.restart().await;
        }
        for agent in [&mut agent, &mut other] {
            let reason = hold(&world.check_in(agent).await);
            assert!(reason.contains(&said), "{reason}");
        }
    }
    // Whichever is released: the key is free for all, and the first that asks makes it.
    world.release_of(&other).await;
    let again = make(&world.check_in(&mut agent).await);
    assert_eq!((again.attempt, again.run == order.run), (1, false));
    hold(&world.check_in(&mut other).await);
    for _ in 0..2 {
        let order = make(&world.check_in(&mut agent).await);
        world.break_off(&mut agent, &order).await;
    }
    // The last attempt is lost with the power.
    make(&world.check_in(&mut agent).await);
    agent.restart();
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("failed 3 times, the last time because: the machine started anew"));
    for agent in [&mut agent, &mut other] {
        let reason = hold(&world.check_in(agent).await);
        assert!(reason.contains("which could not be built: machine"), "{reason}");
    }
    world.release_of(&agent).await;
    let order = make(&world.check_in(&mut agent).await);
    world.make(&mut agent, &order).await;
    for agent in [&mut agent, &mut other] {
        assert_eq!(deploy(&world.check_in(agent).await).system.image, MADE);
    }
}

#[tokio::test]
async fn a_base_that_cannot_be_built_is_told_and_tried_again() {
    let mut world = World::with(POLICY).await;
    world.workshop.change("gpu.toml", |recipe| recipe.broken = Some("no such package"));
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.workshop.end(100);
    world.failed(1).await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("which could not be built: no such package"), "{reason}");
    world.workshop.change("gpu.toml", |recipe| recipe.broken = None);
    world.release_of(&agent).await;
    hold(&world.check_in(&mut agent).await);
    world.built(1).await;
    make(&world.check_in(&mut agent).await);
}

#[tokio::test]
async fn what_does_not_fit_the_record_is_not_taken_as_made() {
    let (mut world, mut agent, order) = world().await;
    let right = made(&agent, &order, MADE);
    let told = async |world: &World, made: &Made| match world.controller.made(made, world.now).await
    {
        Ok(()) => "taken".to_owned(),
        Err(ControllerError::Conflict(text)) => format!("409 {text}"),
        Err(ControllerError::Missing(text)) => format!("404 {text}"),
        Err(ControllerError::Refused(text)) => format!("422 {text}"),
        Err(other) => format!("5xx {other}"),
    };
    let says = async |world: &World, made: Made, expected: &str| {
        let said = told(world, &made).await;
        assert!(said.starts_with(expected), "{said}");
    };
    says(&world, right.clone(), "409 the store does not have 777777777777 to be built/gpu:").await;
    world.store(Digest([5; 32]));
    says(&world, right.clone(), "409 the store does not have").await;
    world.store(MADE);
    let wrong = |change: &dyn Fn(&mut Made)| {
        let mut made = right.clone();
        change(&mut made);
        made
    };
    says(&world, wrong(&|m| m.machine = "m-no".parse().unwrap()), "404 there is no machine").await;
    says(&world, wrong(&|m| m.run = "r-no".parse().unwrap()), "404 machine ").await;
    says(&world, wrong(&|m| m.attempt = 2), "409 run ").await;
    says(&world, wrong(&|m| m.boot = "0".repeat(32)), "409 run ").await;
    says(&world, wrong(&|m| m.boot = "x".into()), "422 ").await;
    let mut other = Agent::new(2);
    world.check_in(&mut other).await;
    let id = other.machine.clone().unwrap();
    says(&world, wrong(&|m| m.machine = id.clone()), "404 machine ").await;
    world.role(&other, "other").await;
    let deployed = deploy(&world.check_in(&mut other).await);
    let boot = other.boot_name();
    let installs = wrong(&|m| {
        (m.machine, m.run, m.boot) = (id.clone(), deployed.run.clone(), boot.clone());
    });
    says(&world, installs, "409 run ").await;
    assert_eq!(world.state(&order).await, RunState::Ordered);

    says(&world, right.clone(), "taken").await;
    says(&world, right.clone(), "taken").await;
    says(&world, wrong(&|m| m.image = Digest([5; 32])), "409 run ").await;
    world.restart().await;
    says(&world, right.clone(), "taken").await;
    let records = world.controller.machine_log(&right.machine, 0, 100, Duration::ZERO).await;
    let lines = records.unwrap().entries.iter().filter(|entry| entry.run.is_some()).count();
    assert_eq!(lines, 1, "once");

    // An image that left the store is made anew, and what was told before is not of that.
    world.images.0.lock().unwrap().remove(&order.making.configuration.reference().to_string());
    let again = make(&world.check_in(&mut agent).await);
    assert_ne!(again.run, order.run);
    assert_eq!(make(&world.check_in(&mut agent).await), again);
    world.make(&mut agent, &again).await;
    says(&world, right, "409 run ").await;
    deploy(&world.check_in(&mut agent).await);
}

#[tokio::test]
async fn a_set_has_its_images_made_where_that_is_said() {
    let (mut world, mut agent, order) = world().await;
    world.role(&agent, "data").await;
    // Another label is another base.
    assert!(hold(&world.check_in(&mut agent).await).contains("recipe gpu for label.role \"data\""));
    world.built(2).await;
    let taken = make(&world.check_in(&mut agent).await);
    assert_eq!(taken.base.disk.serial.as_deref(), Some("D"), "on the disk that it is for");
    assert_ne!(taken.making.configuration, order.making.configuration);
    world.make(&mut agent, &taken).await;
    let order = deploy(&world.check_in(&mut agent).await);
    let images: Vec<_> = order.images().map(|image| image.image).collect();
    assert_eq!(images, [Digest([1; 32]), MADE]);
}

#[tokio::test]
async fn a_rule_may_say_that_nothing_is_made_for_it() {
    let (mut world, mut agent, order) = world().await;
    world.role(&agent, "never").await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(
        reason.contains("`missing = \"on-target\"` in the rule lets a machine make it"),
        "{reason}"
    );
    assert_eq!(world.state(&order).await, RunState::Superseded);
    // Policy and recipe are changed one after the other.
    world.workshop.change("gpu.toml", |recipe| recipe.target = None);
    let mut other = Agent::new(2);
    let reason = hold(&world.check_in(&mut other).await);
    let said = "rule \"gpu\" names the recipe gpu, which has no [target]: say missing = \"build\"";
    assert_eq!(reason, said);
    world.workshop.change("a.toml", |recipe| recipe.target = Some(vec![]));
    world.restart_with("[[rule]]\nname = 'a'\nrecipe = 'a.toml'\n").await;
    let reason = hold(&world.check_in(&mut other).await);
    assert!(reason.ends_with("which has a [target]: say missing = \"on-target\""), "{reason}");
}

/// An image is made and installed on two machines. The answer to the call of this
/// number is lost and the server killed, and the agent repeats itself.
async fn course(stop: usize) -> (usize, Vec<String>) {
    let mut calls = 0;
    let mut at_stop = || {
        calls += 1;
        calls == stop
    };
    let mut world = World::with(POLICY).await;
    let (mut agent, mut other) = (Agent::new(1), Agent::new(2));
    world.workshop.end(100);
    world.check_in(&mut agent).await;
    world.built(1).await;
    let order = make(&world.check_in(&mut agent).await);
    if at_stop() {
        world.kill().await;
        assert_eq!(make(&world.check_in(&mut agent).await), order);
    }
    hold(&world.check_in(&mut other).await);
    for step in MAKING {
        for kind in [started(step), ended(step, Outcome::Done)] {
            let batch = agent.tells_of(&order.run, order.attempt, [kind]);
            let seen = world.send(&batch).await;
            if at_stop() {
                world.kill().await;
                hold(&world.check_in(&mut other).await);
                assert_eq!(world.send(&batch).await, seen);
            }
        }
    }
    world.store(MADE);
    let told = made(&agent, &order, MADE);
    world.controller.made(&told, world.now).await.unwrap();
    if at_stop() {
        world.kill().await;
        world.controller.made(&told, world.now).await.unwrap();
    }
    for agent in [&mut agent, &mut other] {
        let order = deploy(&world.check_in(agent).await);
        if at_stop() {
            world.kill().await;
            assert_eq!(deploy(&world.check_in(agent).await), order);
        }
        world.install(agent).await;
    }
    let mut story = Vec::new();
    for agent in [&agent, &other] {
        let id = agent.machine.as_ref().unwrap();
        let machine = world.controller.machine(id).await.unwrap();
        story.push(format!("{:?}", machine.summary.state));
        let run = |run: &wire::admin::RunSummary| {
            format!("{} {:?} {} {:?}", run.reference, run.state, run.attempt, run.makes)
        };
        story.extend(machine.runs.iter().map(run));
        let log = world.controller.machine_log(id, 0, 1000, Duration::ZERO).await.unwrap();
        // What is told of the build depends on how quick that is.
        let of_runs = log.entries.iter().filter(|entry| entry.run.is_some());
        story.extend(of_runs.map(|entry| entry.boot.clone()));
    }
    (calls, story)
}

#[tokio::test]
async fn a_server_that_is_killed_at_any_call_of_it_has_the_same_record() {
    let (calls, story) = course(usize::MAX).await;
    assert_eq!(calls, 16);
    for stop in 1..=calls {
        assert_eq!(course(stop).await.1, story, "killed after call {stop}");
    }
}

#[tokio::test]
async fn made_is_answered_by_no_content_over_http() {
    use axum::http::StatusCode;
    let (world, agent, order) = world().await;
    world.store(MADE);
    let told = made(&agent, &order, MADE);
    for (made, expected) in [
        (Made { run: "r-no".parse().unwrap(), ..told.clone() }, StatusCode::NOT_FOUND),
        (Made { attempt: 7, ..told.clone() }, StatusCode::CONFLICT),
        (told.clone(), StatusCode::NO_CONTENT),
        (told, StatusCode::NO_CONTENT),
    ] {
        let router = controller::router(world.controller.clone(), || 1234);
        let body = serde_json::to_vec(&made).unwrap();
        let (status, body) = crate::api::call(&router, "POST", wire::api::MADE, body).await;
        assert_eq!(status, expected, "{}", String::from_utf8_lossy(&body));
    }
}
