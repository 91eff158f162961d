//! Limits of rules: how many machines, how many at a time, and when.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::admin::{DryRunRequest, HoldRequest, LabelChange, MachineState, RunState};
use wire::{DeployOrder, Digest, MachineId, Order, Outcome, RunId, Step};

use crate::common::{Agent, World, deploy, ended, failed, hold, started};

/// The second rule has a limit.
fn policy(limit: &str) -> String {
    format!(
        "[[rule]]\nname = 'other'\nwhen = 'label.role == \"other\"'\nimage = 'web:2'\n\
         [[rule]]\nname = 'few'\nimage = 'base:1'\nlimit = {{ {limit} }}\n"
    )
}

async fn world(limit: &str) -> World {
    World::with(&policy(limit)).await
}

/// Machines check in at the same moment; how many of them begin.
async fn all_at_once(world: &World, numbers: std::ops::Range<u32>) -> usize {
    let now = world.now;
    let asks = numbers.map(|number| {
        let controller = world.controller.clone();
        tokio::spawn(async move { controller.check_in(&Agent::new(number).asks(), now).await })
    });
    let mut begun = 0;
    for ask in asks.collect::<Vec<_>>() {
        match ask.await.unwrap().unwrap().order {
            Order::Deploy(_) => begun += 1,
            Order::Hold(hold) => {
                assert!(hold.reason.starts_with("rule \"few\" is for "), "{hold:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    begun
}

async fn label(world: &World, agent: &Agent, role: &str) {
    let set = BTreeMap::from([("role".to_owned(), role.to_owned())]);
    let change = LabelChange { set, remove: Vec::new() };
    world.controller.label(agent.machine.as_ref().unwrap(), &change).await.unwrap();
}

fn name(agent: &Agent) -> String {
    agent.machine.as_ref().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_ask_at_once_as_many_begin_as_may_be_at_it() {
    let mut world = world("at-once = 3").await;
    assert_eq!(all_at_once(&world, 0..60).await, 3);
    // They ask again, and so do the others.
    assert_eq!(all_at_once(&world, 0..60).await, 3);
    world.kill().await;
    assert_eq!(all_at_once(&world, 0..90).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_ask_at_once_as_many_begin_as_may_in_all() {
    let mut world = world("machines = 10").await;
    assert_eq!(all_at_once(&world, 0..60).await, 10);
    world.kill().await;
    assert_eq!(all_at_once(&world, 0..90).await, 10);
}

#[tokio::test]
async fn a_machine_waits_for_those_before_it_and_has_its_turn_when_one_is_done() {
    let mut world = world("at-once = 1").await;
    let (mut first, mut second, mut third) = (Agent::new(1), Agent::new(2), Agent::new(3));
    let order = deploy(&world.check_in(&mut first).await);
    assert_eq!(
        hold(&world.check_in(&mut second).await),
        format!(
            "rule \"few\" is for 1 machines at a time (`at-once` of its limit), and {} (ordered) \
             comes first; this machine asks again every 15 s",
            name(&first)
        )
    );
    let batch =
        first.tells(&order, [started(Step::Transfer), ended(Step::Transfer, failed("cable"))]);
    world.send(&batch).await;
    assert!(hold(&world.check_in(&mut second).await).contains("(retrying) comes first"));
    // A retry is no beginning.
    assert_eq!(deploy(&world.check_in(&mut first).await).attempt, 2);
    world.install(&mut first).await;
    let order = deploy(&world.check_in(&mut second).await);
    hold(&world.check_in(&mut third).await);
    // What is installed is started while another one is at it.
    first.restart();
    let found = deploy(&world.check_in(&mut first).await);
    let run = world.controller.run(&found.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::AlreadyInstalled);
    // Three failures end it as well.
    for _ in 0..3 {
        let order = deploy(&world.check_in(&mut second).await);
        let batch = second.tells(&order, [ended(Step::Transfer, failed("cable"))]);
        world.send(&batch).await;
    }
    let run = world.controller.run(&order.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::Failed);
    let order = deploy(&world.check_in(&mut third).await);
    // So does a hold, once the machine asks.
    let request = HoldRequest { reason: "lunch".into() };
    world.controller.hold(third.machine.as_ref().unwrap(), &request).await.unwrap();
    world.controller.release(second.machine.as_ref().unwrap(), world.now).await.unwrap();
    hold(&world.check_in(&mut second).await);
    assert_eq!(hold(&world.check_in(&mut third).await), "lunch");
    assert_eq!(world.controller.run(&order.run).await.unwrap().summary.state, RunState::Superseded);
    deploy(&world.check_in(&mut second).await);
}

#[tokio::test]
async fn another_image_is_rolled_out_with_the_same_limit() {
    let mut world = world("at-once = 1, machines = 2").await;
    let mut agents: Vec<_> = (0..3).map(Agent::new).collect();
    world.install(&mut agents[0]).await;
    world.install(&mut agents[1]).await;
    assert_eq!(
        hold(&world.check_in(&mut agents[2]).await),
        format!(
            "rule \"few\" is for 2 machines at most (`machines` of its limit), and {}, {} have its \
             turn; this machine asks again every 15 s",
            name(&agents[0]),
            name(&agents[1])
        )
    );
    world.images.0.lock().unwrap().insert("base:1".into(), Digest([9; 32]));
    agents.iter_mut().for_each(Agent::restart);
    assert_eq!(deploy(&world.check_in(&mut agents[0]).await).system.image, Digest([9; 32]));
    assert!(hold(&world.check_in(&mut agents[1]).await).contains("(ordered) comes first"));
    world.install(&mut agents[0]).await;
    world.install(&mut agents[1]).await;
    hold(&world.check_in(&mut agents[2]).await);
    // One that gets something else makes room.
    label(&world, &agents[0], "other").await;
    world.install(&mut agents[0]).await;
    world.install(&mut agents[2]).await;
    // And has to wait when it comes back.
    let change = LabelChange { set: BTreeMap::new(), remove: vec!["role".into()] };
    world.controller.label(agents[0].machine.as_ref().unwrap(), &change).await.unwrap();
    assert!(hold(&world.check_in(&mut agents[0]).await).contains("is for 2 machines at most"));
}

#[tokio::test]
async fn nothing_begins_before_its_time_and_after() {
    let limit = "from = '1970-01-01T00:01:00Z', until = '1970-01-01T01:02:00+01:00'";
    let mut world = world(limit).await;
    let (mut first, mut second, mut third) = (Agent::new(1), Agent::new(2), Agent::new(3));
    let reason = "rule \"few\" begins nothing before 1970-01-01T00:01:00Z; this machine asks again \
                  every 15 s";
    assert_eq!(hold(&world.check_in(&mut first).await), reason);
    world.now = 59_980;
    assert_eq!(hold(&world.check_in(&mut first).await), reason);
    world.install(&mut first).await;
    let begun = deploy(&world.check_in(&mut second).await);
    world.now = 120_000;
    let reason = hold(&world.check_in(&mut third).await);
    assert!(
        reason.starts_with("rule \"few\" begins nothing from 1970-01-01T00:02:00Z on"),
        "{reason}"
    );
    // What began goes on, also after a power cut; what is there is started.
    assert_eq!(deploy(&world.check_in(&mut second).await), begun);
    second.restart();
    assert_eq!(deploy(&world.check_in(&mut second).await).attempt, 2);
    world.install(&mut second).await;
    first.restart();
    deploy(&world.check_in(&mut first).await);
    // A disk that lost its image is a beginning.
    first.restart();
    first.receipt = None;
    assert_eq!(hold(&world.check_in(&mut first).await), reason);
}

#[tokio::test]
async fn a_machine_that_vanishes_gives_its_turn_to_another() {
    let mut world = world("at-once = 1").await;
    let (mut first, mut second) = (Agent::new(1), Agent::new(2));
    let order = deploy(&world.check_in(&mut first).await);
    let hour = 3_600_000;
    world.now += hour - 20;
    hold(&world.check_in(&mut second).await);
    let taken = deploy(&world.check_in(&mut second).await);
    let run = world.controller.run(&order.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::Superseded);
    assert!(run.cause.unwrap().ends_with("took its turn"));
    let machine = world.controller.machine(first.machine.as_ref().unwrap()).await.unwrap().summary;
    assert_eq!(machine.state, MachineState::Held);
    // It was only cut off, and installed its image all the same.
    let batch = first.tells(&order, [ended(Step::Start, Outcome::Done)]);
    world.send(&batch).await;
    first.receipt = Some(order.system.image);
    first.restart();
    let found = deploy(&world.check_in(&mut first).await);
    let run = world.controller.run(&found.run).await.unwrap().summary;
    assert_eq!(run.state, RunState::AlreadyInstalled);
    assert_eq!(deploy(&world.check_in(&mut second).await), taken);
}

#[tokio::test]
async fn where_there_is_room_nobody_is_given_up() {
    let mut world = world("at-once = 2").await;
    let (mut first, mut second, mut third) = (Agent::new(1), Agent::new(2), Agent::new(3));
    let order = deploy(&world.check_in(&mut first).await);
    world.now += 10 * 3_600_000;
    deploy(&world.check_in(&mut second).await);
    let state = async |world: &World| world.controller.run(&order.run).await.unwrap().summary.state;
    assert_eq!(state(&world).await, RunState::Ordered);
    deploy(&world.check_in(&mut third).await);
    assert_eq!(state(&world).await, RunState::Superseded);
}

#[tokio::test]
async fn making_an_image_counts_as_well() {
    let text = "[[rule]]\nname = 'few'\nrecipe = 'gpu.toml'\nmissing = 'on-target'\n\
                limit = { at-once = 1 }\n";
    let mut world = World::with(text).await;
    let (mut first, mut second) = (Agent::new(1), Agent::new(2));
    second.inventory.system.product = Some("X2".into());
    world.workshop.end(10);
    hold(&world.check_in(&mut first).await);
    world.built(1).await;
    assert!(matches!(world.check_in(&mut first).await.order, Order::Make(_)));
    // Another key, and the same rule.
    assert!(hold(&world.check_in(&mut second).await).contains("(ordered) comes first"));
}

#[tokio::test]
async fn why_and_dry_run_show_the_limit() {
    let limit = "machines = 2, at-once = 1, from = 1970-01-01T00:00:00Z";
    let mut world = world(limit).await;
    let (mut first, mut second) = (Agent::new(1), Agent::new(2));
    world.check_in(&mut first).await;
    let reason = hold(&world.check_in(&mut second).await);
    let id = second.machine.clone().unwrap();
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert_eq!(why.order, format!("hold: {reason}"));
    let words = "at most 2 machines in all, at most 1 at a time, from 1970-01-01T00:00:00Z";
    assert_eq!(why.rules[1].limit, Some(format!("{words} (1 so far, 1 now)")));
    assert_eq!(why.rules[0].limit, None);
    let why = world.controller.why(first.machine.as_ref().unwrap(), world.now).await.unwrap();
    assert!(why.order.starts_with("deploy base:1"), "{}", why.order);
    let request = DryRunRequest { policy: policy("at-once = 7"), instead_of: None, after: None };
    let dry = world.controller.dry_run(&request).await.unwrap().machines;
    let how = |ruling: &Option<wire::admin::Ruling>| ruling.as_ref().unwrap().how.clone();
    assert_eq!(how(&dry[0].before), format!("start kexec; {words}"));
    assert_eq!(how(&dry[0].after), "start kexec; at most 7 at a time");
}

#[derive(Debug, Clone)]
enum Act {
    CheckIn(usize),
    Install(usize),
    Fail(usize),
    Reboot(usize),
    Label(usize, bool),
    Release(usize),
    Tag(u8),
    Pass(u64),
    Kill,
}

const FLEET: usize = 6;
const AT_ONCE: usize = 2;
const MACHINES: usize = 4;

fn act() -> impl Strategy<Value = Act> {
    let n = 0..FLEET;
    prop_oneof![
        8 => n.clone().prop_map(Act::CheckIn),
        3 => n.clone().prop_map(Act::Install),
        2 => n.clone().prop_map(Act::Fail),
        2 => n.clone().prop_map(Act::Reboot),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, other)| Act::Label(n, other)),
        1 => n.prop_map(Act::Release),
        1 => (1..4_u8).prop_map(Act::Tag),
        1 => prop_oneof![Just(10_000), Just(4_000_000)].prop_map(Act::Pass),
        1 => Just(Act::Kill),
    ]
}

/// The machines that have what the rule says or are at it, with their runs; and how
/// many of them are at it.
async fn count(world: &World) -> (BTreeMap<MachineId, RunId>, usize) {
    let machines = world.controller.machines(None, 1000, None).await.unwrap().machines;
    let (mut all, mut now) = (BTreeMap::new(), 0);
    for machine in machines {
        let Some(id) = machine.run else { continue };
        let run = world.controller.run(&id).await.unwrap().summary;
        if run.rule == "few" && run.state != RunState::Superseded {
            now += usize::from(!run.state.is_over());
            all.insert(machine.id, id);
        }
    }
    (all, now)
}

/// A machine checks in; that it begins exceeds nothing.
async fn checks_in(world: &mut World, agent: &mut Agent) -> Option<DeployOrder> {
    let (before, _) = count(world).await;
    let Order::Deploy(order) = world.check_in(agent).await.order else { return None };
    let (after, now) = count(world).await;
    let id = agent.machine.as_ref().unwrap();
    let state = world.controller.run(&order.run).await.unwrap().summary.state;
    let begins = after.get(id) == Some(&order.run) && before.get(id) != Some(&order.run);
    if begins && state == RunState::Ordered {
        assert!(now <= AT_ONCE, "{now} at a time");
        assert!(before.contains_key(id) || after.len() <= MACHINES, "{after:?}");
    }
    Some(order)
}

async fn course(acts: &[Act]) {
    let mut world = world(&format!("at-once = {AT_ONCE}, machines = {MACHINES}")).await;
    let mut agents: Vec<_> = (0..u32::try_from(FLEET).unwrap()).map(Agent::new).collect();
    let mut orders = vec![None; FLEET];
    for act in acts {
        match *act {
            Act::CheckIn(n) => orders[n] = checks_in(&mut world, &mut agents[n]).await,
            Act::Install(n) => {
                let Some(order) = orders[n].take() else { continue };
                let batch = agents[n].tells(&order, [ended(Step::Start, Outcome::Done)]);
                world.send(&batch).await;
                agents[n].receipt = Some(order.system.image);
            }
            Act::Fail(n) => {
                let Some(order) = orders[n].take() else { continue };
                let batch = agents[n].tells(&order, [ended(Step::Verify, failed("cable"))]);
                world.send(&batch).await;
            }
            Act::Reboot(n) => {
                agents[n].restart();
                orders[n] = None;
            }
            Act::Label(n, other) => {
                if agents[n].machine.is_some() {
                    label(&world, &agents[n], if other { "other" } else { "few" }).await;
                }
            }
            Act::Release(n) => {
                if let Some(id) = &agents[n].machine {
                    world.controller.release(id, world.now).await.unwrap();
                }
            }
            Act::Tag(version) => {
                world.images.0.lock().unwrap().insert("base:1".into(), Digest([version; 32]));
            }
            Act::Pass(ms) => world.now += ms,
            Act::Kill => world.kill().await,
        }
    }
    // In the end as many have it as may.
    agents.iter_mut().for_each(Agent::restart);
    for _ in 0..20 {
        let (all, now) = count(&world).await;
        if all.len() >= MACHINES && now == 0 {
            return;
        }
        for agent in &mut agents {
            if let Some(id) = &agent.machine {
                label(&world, agent, "few").await;
                world.controller.release(id, world.now).await.unwrap();
            }
            let Some(order) = checks_in(&mut world, agent).await else { continue };
            let batch = agent.tells(&order, [ended(Step::Start, Outcome::Done)]);
            world.send(&batch).await;
            agent.receipt = Some(order.system.image);
        }
    }
    panic!("{:?}", count(&world).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn no_course_of_events_exceeds_a_limit(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(course(&acts));
    }
}

#[tokio::test]
async fn a_machine_out_of_service_gives_its_place_to_another() {
    let mut world = world("machines = 1").await;
    let (mut first, mut second) = (Agent::new(1), Agent::new(2));
    deploy(&world.check_in(&mut first).await);
    world.install(&mut first).await;
    hold(&world.check_in(&mut second).await);
    world.controller.retire(first.machine.as_ref().unwrap(), world.now).await.unwrap();
    deploy(&world.check_in(&mut second).await);
    world.install(&mut second).await;
    hold(&world.check_in(&mut Agent::new(3)).await);
    // It comes back as another one, and what it has is started.
    first.restart();
    deploy(&world.check_in(&mut first).await);
}
