//! Images that are built when a machine needs them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use wire::admin::{HoldRequest, LabelChange, MachineState, RunState};
use wire::api::CheckedIn;
use wire::{Digest, EventKind, FactValue, Facts, Order};

use crate::common::{Agent, World, deploy, hold};
use crate::workshop::image;

const POLICY: &str = r#"
[[rule]]
name = "fixed"
when = 'label.role == "fixed"'
image = "web:2"

[[rule]]
name = "only there"
when = 'label.role == "only-there"'
recipe = "b.toml"
missing = "hold"

[[rule]]
name = "never"
when = 'label.role == "never"'
recipe = "b.toml"
missing = "fail"

[[rule]]
name = "lost"
when = 'label.role == "lost"'
recipe = "lost.toml"

[[rule]]
name = "shared"
when = 'label.role == "shared"'
recipe = "b.toml"

[[rule]]
name = "made"
when = 'system.manufacturer == "Acme"'
recipe = "a.toml"
start = "reboot"
"#;

/// Looks again until something is so: builds go on beside the test.
pub async fn until(what: &str, so: impl AsyncFn() -> bool) {
    for _ in 0..2000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within ten seconds");
}

impl World {
    pub async fn built(&self, count: u64) {
        let metrics = self.controller.metrics().clone();
        until("built", async || metrics.builds_succeeded.get() == count).await;
        until("over", async || self.workshop.running() == 0).await;
    }

    pub async fn failed(&self, count: u64) {
        let metrics = self.controller.metrics().clone();
        until("failed", async || metrics.builds_failed.get() == count).await;
    }

    async fn begun(&self, count: usize) {
        until("begun", async || self.workshop.begun().len() == count).await;
    }

    /// Lets a name mean this image in the store, or none.
    fn name(&self, reference: &str, image: Option<Digest>) {
        let mut names = self.images.0.lock().unwrap();
        match image {
            None => names.remove(reference),
            Some(image) => names.insert(reference.to_owned(), image),
        };
    }

    async fn label(&self, agent: &Agent, role: &str) {
        let set = BTreeMap::from([("role".to_owned(), role.to_owned())]);
        let change = LabelChange { set, remove: Vec::new() };
        self.controller.label(agent.machine.as_ref().unwrap(), &change).await.unwrap();
    }

    /// What the server wrote into the log of a machine.
    async fn told(&self, agent: &Agent) -> Vec<String> {
        let id = agent.machine.as_ref().unwrap();
        let log = self.controller.machine_log(id, 0, 1000, Duration::ZERO).await.unwrap();
        let line = |kind: EventKind| match kind {
            EventKind::Log { line } => Some(line),
            _ => None,
        };
        log.entries.into_iter().filter_map(|entry| line(entry.kind)).collect()
    }
}

fn facts(agent: &Agent, role: Option<&str>) -> Facts {
    let mut facts = agent.inventory.facts();
    if let Some(role) = role {
        facts.insert("label.role".into(), FactValue::Text(role.into()));
    }
    facts
}

#[tokio::test]
async fn many_machines_wait_for_one_build_and_all_get_its_image() {
    let mut world = World::with(POLICY).await;
    let mut agents: Vec<_> = (0..20).map(Agent::new).collect();
    for agent in &mut agents {
        let reason = hold(&world.check_in(agent).await);
        assert!(reason.starts_with("rule \"made\" wants built/a:"), "{reason}");
        assert!(reason.contains("(recipe a for label.role not reported, system.product \"X1\")"));
    }
    world.begun(1).await;
    let expected = world.workshop.configuration("a.toml", &facts(&agents[0], None));
    assert_eq!(world.workshop.begun(), std::slice::from_ref(&expected));
    let said = async || hold(&world.controller.check_in(&agents[7].asks(), 5).await.unwrap());
    until("a stage", async || said().await.contains("it is being built: base, 0 s so far")).await;
    let id = agents[7].machine.clone().unwrap();
    let machine = world.controller.machine(&id).await.unwrap().summary;
    assert_eq!((machine.state, machine.run), (MachineState::Held, None));
    assert!(machine.reason.unwrap().contains("it is being built: base"));

    world.workshop.end(1);
    world.built(1).await;
    for agent in &mut agents {
        let order = world.install(agent).await;
        assert_eq!(order.system.image, image(expected.key));
        assert_eq!(order.system.reference, expected.reference());
        assert_eq!(order.start, wire::Start::Reboot);
    }
    assert_eq!(world.workshop.begun().len(), 1);
    let reference = expected.reference();
    for agent in &agents {
        let told = world.told(agent).await;
        assert!(told[0].starts_with(&format!("waits for {reference} (recipe a for ")), "{told:?}");
        let disk = format!("{reference} is being built: disk");
        assert!(told.contains(&disk), "{told:?}");
        let built = format!("{reference} was built in 0 s ({})", image(expected.key).short());
        assert!(told.contains(&built), "{told:?}");
    }
    // What the run was given is told in its own log.
    let run = &world.controller.runs(None, 1).await.unwrap().runs[0];
    let log = world.controller.run_log(&run.id, 0, 1, Duration::ZERO).await.unwrap();
    assert_eq!(log.entries[0].boot, wire::admin::SERVER_BOOT);
    let EventKind::Log { line } = &log.entries[0].kind else { panic!("{:?}", log.entries[0]) };
    assert!(line.starts_with(&format!("{reference} was built for recipe a for ")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_miss_the_same_image_at_once_cause_one_build() {
    let world = World::with(POLICY).await;
    let asks = (0..50).map(|number| {
        let controller = world.controller.clone();
        tokio::spawn(async move { controller.check_in(&Agent::new(number).asks(), 5).await })
    });
    // It ends while they still ask.
    world.workshop.end(1);
    for ask in asks.collect::<Vec<_>>() {
        ask.await.unwrap().unwrap();
    }
    world.built(1).await;
    let mut late = Agent::new(99);
    assert!(matches!(
        world.controller.check_in(&late.asks(), 5).await.unwrap().order,
        Order::Deploy(_)
    ));
    late.restart();
    assert_eq!(world.workshop.begun().len(), 1);
}

#[tokio::test]
async fn declared_facts_decide_about_the_image_and_others_do_not_matter() {
    let mut world = World::with(POLICY).await;
    let mut first = Agent::new(1);
    world.check_in(&mut first).await;
    world.workshop.end(10);
    world.built(1).await;
    let one = world.install(&mut first).await.system.image;

    let mut equal = Agent::new(2);
    equal.inventory.cpu.count = Some(64);
    equal.inventory.disks[0].model = Some("other".into());
    assert_eq!(world.install(&mut equal).await.system.image, one, "no build");

    let mut other = Agent::new(3);
    other.inventory.system.product = Some("X2".into());
    assert!(hold(&world.check_in(&mut other).await).contains("system.product \"X2\""));
    world.built(2).await;
    let two = world.install(&mut other).await.system.image;
    world.label(&equal, "web").await;
    hold(&world.check_in(&mut equal).await);
    world.built(3).await;
    let three = world.install(&mut equal).await.system.image;
    assert!(one != two && two != three && one != three);
    assert_eq!(world.workshop.begun().len(), 3);
}

#[tokio::test]
async fn a_limited_number_of_builds_runs_and_the_others_wait_their_turn() {
    let mut world = World::with(POLICY).await;
    let mut agents: Vec<_> = (0..4).map(Agent::new).collect();
    for (number, agent) in agents.iter_mut().enumerate() {
        agent.inventory.system.product = Some(format!("X{number}"));
        world.check_in(agent).await;
    }
    // Two run: more would fail the workshop's own assertion.
    world.begun(2).await;
    let reason = hold(&world.check_in(&mut agents[3]).await);
    assert!(reason.contains("its build waits for 3 others to end"), "{reason}");
    world.workshop.end(4);
    world.built(4).await;
    for agent in &mut agents {
        deploy(&world.check_in(agent).await);
    }
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_wait_and_not_tried_again_until_one_is_released() {
    let mut world = World::with(POLICY).await;
    world.workshop.change("a.toml", |recipe| recipe.broken = Some("no such package"));
    let mut agents: Vec<_> = (0..3).map(Agent::new).collect();
    for agent in &mut agents {
        world.check_in(agent).await;
    }
    world.workshop.end(1);
    world.failed(1).await;
    for restart in [false, true] {
        if restart {
            // A failure is as durable as an image, and another policy that leads to
            // the same key does not try it again.
            world.restart_with(&POLICY.replace("\"made\"", "\"made otherwise\"")).await;
        }
        for agent in &mut agents {
            let reason = hold(&world.check_in(agent).await);
            let said = "which could not be built: no such package. It said last: unpacking / E: no \
                        such package. Mend the recipe, or remove the cause";
            assert!(reason.contains(said), "{reason}");
            let told = world.told(agent).await;
            assert!(told.iter().any(|line| line.ends_with("could not be built: no such package")));
            assert!(told.contains(&"  E: no such package".to_owned()), "{told:?}");
        }
    }
    assert_eq!(world.workshop.begun().len(), 1);

    // The cause is removed; the recipe is the same.
    world.workshop.change("a.toml", |recipe| recipe.broken = None);
    let id = agents[1].machine.clone().unwrap();
    world.controller.release(&id, world.now).await.unwrap();
    assert!(hold(&world.check_in(&mut agents[2]).await).contains("built/a:"));
    world.workshop.end(1);
    world.built(1).await;
    for agent in &mut agents {
        deploy(&world.check_in(agent).await);
    }
    assert_eq!(world.workshop.begun().len(), 2);
}

#[tokio::test]
async fn a_mended_recipe_is_built_and_a_bug_is_a_failure_like_others() {
    let mut world = World::with(POLICY).await;
    world.workshop.change("a.toml", |recipe| recipe.broken = Some("panic"));
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.workshop.end(1);
    world.failed(1).await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert!(reason.contains("the build ended in the middle, please report this"), "{reason}");
    world.workshop.change("a.toml", |recipe| (recipe.broken, recipe.version) = (None, 2));
    hold(&world.check_in(&mut agent).await);
    world.workshop.end(1);
    world.built(1).await;
    deploy(&world.check_in(&mut agent).await);
}

#[tokio::test]
async fn a_server_killed_amid_a_build_builds_again_and_has_nothing_half_recorded() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.begun(1).await;
    world.restart().await;
    let id = agent.machine.clone().unwrap();
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert!(
        why.order.contains("its build is asked for when this machine checks in"),
        "{}",
        why.order
    );
    assert_eq!(world.workshop.begun().len(), 1, "nobody asked for it yet");
    hold(&world.check_in(&mut agent).await);
    world.begun(2).await;
    world.workshop.end(1);
    world.built(1).await;
    world.restart().await;
    deploy(&world.check_in(&mut agent).await);
    assert_eq!(world.workshop.begun().len(), 2);
}

#[tokio::test]
async fn a_build_that_breaks_off_while_the_server_stops_has_not_failed() {
    let mut world = World::with(POLICY).await;
    world.workshop.change("a.toml", |recipe| recipe.broken = Some("killed by signal 15"));
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.begun(1).await;
    world.controller.stop_builds();
    world.workshop.end(1);
    until("over", async || world.workshop.running() == 0).await;
    world.workshop.change("a.toml", |recipe| recipe.broken = None);
    world.restart().await;
    hold(&world.check_in(&mut agent).await);
    world.workshop.end(1);
    world.built(1).await;
    deploy(&world.check_in(&mut agent).await);
}

#[tokio::test]
async fn an_image_that_left_the_store_is_built_again() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.workshop.end(1);
    world.built(1).await;
    let order = world.install(&mut agent).await;
    let reference = order.system.reference.to_string();
    // Removed, and then given to another image by somebody: neither is what was built.
    for (builds, now_means) in [(2, None), (3, Some(Digest([9; 32])))] {
        world.name(&reference, now_means);
        agent.restart();
        hold(&world.check_in(&mut agent).await);
        world.workshop.end(1);
        world.built(builds).await;
        assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, order.system.image);
    }
}

#[tokio::test]
async fn what_the_policy_wants_no_more_is_stored_all_the_same() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.begun(1).await;
    world.label(&agent, "fixed").await;
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.image, Digest([2; 32]));
    let before = world.told(&agent).await.len();
    world.workshop.end(1);
    world.built(1).await;
    assert_eq!(world.told(&agent).await.len(), before, "it does not wait for it any more");
    let mut next = Agent::new(2);
    deploy(&world.check_in(&mut next).await);
    assert_eq!(world.workshop.begun().len(), 1);
}

#[tokio::test]
async fn a_rule_may_say_that_nothing_is_to_be_built() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.begun(1).await;
    let id = agent.machine.clone().unwrap();
    for (role, state) in [("only-there", MachineState::Held), ("never", MachineState::Failed)] {
        world.label(&agent, role).await;
        let reason = hold(&world.check_in(&mut agent).await);
        assert!(reason.contains("was not built yet, and says that it is not to be built"));
        assert_eq!(world.controller.machine(&id).await.unwrap().summary.state, state);
    }
    world.label(&agent, "lost").await;
    let reason = hold(&world.check_in(&mut agent).await);
    assert_eq!(reason, "rule \"lost\" names a recipe that is wrong: lost.toml:1:1: no such recipe");
    assert_eq!(world.workshop.begun().len(), 1);
    // Once another rule had it built, it is there for all.
    world.label(&agent, "shared").await;
    hold(&world.check_in(&mut agent).await);
    world.workshop.end(2);
    world.built(2).await;
    for role in ["only-there", "never"] {
        world.label(&agent, role).await;
        let order = deploy(&world.check_in(&mut agent).await);
        assert_eq!(order.system.image, image(world.workshop.begun()[1].key));
    }
}

#[tokio::test]
async fn nothing_is_built_for_a_machine_that_is_held_or_only_boots() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.workshop.end(1);
    world.built(1).await;
    let id = agent.machine.clone().unwrap();
    let request = HoldRequest { reason: "lunch".into() };
    world.controller.hold(&id, &request).await.unwrap();
    world.workshop.change("a.toml", |recipe| recipe.version = 2);
    assert_eq!(hold(&world.check_in(&mut agent).await), "lunch");
    world.controller.release(&id, world.now).await.unwrap();
    let client = controller::BootClient { mac: agent.mac(), uuid: None, place: None };
    let answer = world.controller.boot_decision(&client).await.unwrap();
    assert_eq!(answer.decision, controller::BootDecision::Loader);
    world.controller.why(&id, world.now).await.unwrap();
    assert_eq!(world.workshop.begun().len(), 1);
}

#[tokio::test]
async fn why_shows_the_key_and_whether_the_image_is_there() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.check_in(&mut agent).await;
    world.begun(1).await;
    let id = agent.machine.clone().unwrap();
    let made = async || {
        let rules = world.controller.why(&id, world.now).await.unwrap().rules;
        assert!(rules[..5].iter().all(|rule| rule.builds.is_empty()), "{rules:?}");
        assert_eq!(rules[5].outcome, "recipe a.toml");
        rules[5].builds[0].clone()
    };
    until("a stage", async || made().await.standing.starts_with("it is being built: base")).await;
    let expected = world.workshop.configuration("a.toml", &facts(&agent, None));
    let build = made().await;
    assert_eq!((&build.configuration, build.image), (&expected, None));
    world.workshop.end(1);
    world.built(1).await;
    let build = made().await;
    assert_eq!(build.reference, expected.reference());
    assert_eq!(
        (build.image, build.standing.as_str()),
        (Some(image(expected.key)), "it is in the store")
    );
}

#[derive(Debug, Clone)]
enum Act {
    CheckIn(usize),
    Restart(usize),
    Label(usize, usize),
    Hold(usize),
    Release(usize),
    EndBuild,
    /// Mends the recipe, or breaks it.
    Change(bool),
    RemoveImages,
    RestartServer,
}

const ROLES: [&str; 7] = ["fixed", "only-there", "never", "lost", "shared", "other", "none"];

fn act() -> impl Strategy<Value = Act> {
    let agent = 0..3_usize;
    prop_oneof![
        8 => agent.clone().prop_map(Act::CheckIn),
        1 => agent.clone().prop_map(Act::Restart),
        3 => (agent.clone(), 0..ROLES.len()).prop_map(|(agent, role)| Act::Label(agent, role)),
        1 => agent.clone().prop_map(Act::Hold),
        1 => agent.prop_map(Act::Release),
        4 => Just(Act::EndBuild),
        1 => any::<bool>().prop_map(Act::Change),
        1 => Just(Act::RemoveImages),
        1 => Just(Act::RestartServer),
    ]
}

/// No machine is ever told to deploy what no rule gives it.
fn check(world: &World, agent: &Agent, role: Option<&str>, held: bool, answer: &CheckedIn) {
    let Order::Deploy(order) = &answer.order else { return };
    assert!(!held, "{order:?}");
    let recipe = match role {
        Some("fixed") => {
            assert_eq!(
                (order.system.image, order.system.reference.to_string()),
                (Digest([2; 32]), "web:2".into())
            );
            return;
        }
        Some("lost") => panic!("{order:?}"),
        Some("only-there" | "never" | "shared") => "b.toml",
        _ => "a.toml",
    };
    let configuration = world.workshop.configuration(recipe, &facts(agent, role));
    assert_eq!(order.system.reference, configuration.reference());
    assert_eq!(order.system.image, image(configuration.key));
    let named = world.images.0.lock().unwrap().get(&order.system.reference.to_string()).copied();
    assert_eq!(named, Some(order.system.image), "it is in the store, and cannot be collected");
}

async fn course(acts: &[Act]) {
    let mut world = World::with(POLICY).await;
    let mut agents: Vec<_> = (0..3).map(Agent::new).collect();
    let mut roles = [None; 3];
    let mut held = [false; 3];
    agents[2].inventory.system.product = Some("X2".into());
    for agent in &mut agents {
        world.check_in(agent).await;
    }
    for act in acts {
        let id = |agent: usize| agents[agent].machine.clone().unwrap();
        match *act {
            Act::CheckIn(n) => {
                let answer = world.check_in(&mut agents[n]).await;
                check(&world, &agents[n], roles[n], held[n], &answer);
            }
            Act::Restart(n) => agents[n].restart(),
            Act::Label(n, role) => {
                roles[n] = Some(ROLES[role]);
                world.label(&agents[n], ROLES[role]).await;
            }
            Act::Hold(n) => {
                held[n] = true;
                let request = HoldRequest { reason: "x".into() };
                world.controller.hold(&id(n), &request).await.unwrap();
            }
            Act::Release(n) => {
                held[n] = false;
                world.controller.release(&id(n), world.now).await.unwrap();
            }
            Act::EndBuild => world.workshop.end(1),
            Act::Change(broken) => world.workshop.change("a.toml", |recipe| {
                recipe.version += u32::from(!broken);
                recipe.broken = broken.then_some("broken");
            }),
            Act::RemoveImages => {
                world.images.0.lock().unwrap().retain(|name, _| !name.starts_with("built/"));
            }
            Act::RestartServer => world.restart().await,
        }
    }
    // In the end everybody gets what the policy gives.
    world.workshop.change("a.toml", |recipe| recipe.broken = None);
    world.workshop.end(100);
    for n in 0..3 {
        let id = agents[n].machine.clone().unwrap();
        let gets = !matches!(roles[n], Some("lost" | "only-there" | "never"));
        let mut given = !gets;
        for _ in 0..2000 {
            if given {
                break;
            }
            world.controller.release(&id, world.now).await.unwrap();
            let answer = world.check_in(&mut agents[n]).await;
            check(&world, &agents[n], roles[n], false, &answer);
            given = matches!(answer.order, Order::Deploy(_));
        }
        assert!(given, "machine {n} waits for ever");
    }
    let runs = world.controller.runs(None, 1000).await.unwrap().runs;
    assert!(runs.iter().all(|run| run.state != RunState::Unknown));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_course_of_builds_gives_machines_only_what_rules_give(
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(course(&acts));
    }
}
