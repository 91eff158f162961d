//! Where machines are in the network, as the DHCP server saw it.

use controller::attachment::UNKNOWN_MAX;
use controller::{Attachment, BootClient, BootDecision};
use wire::admin::{DryRunRequest, MachineDetail};
use wire::{Nic, Order};

use crate::common::{Agent, World, deploy, hold};

const POLICY: &str = r#"
[[rule]]
name = "rack 12"
when = 'network.relay == "10.0.9.1" and network.circuit-id == "ge-17"'
image = "web:2"
start = "reboot"

[[rule]]
name = "elsewhere"
hold = "not in rack 12"
"#;

/// On a port of the switch in rack 12.
fn port(circuit: &str) -> Attachment {
    Attachment {
        subnet: "10.0.9.0/24".to_owned(),
        relay: Some("10.0.9.1".to_owned()),
        circuit_id: Some(circuit.to_owned()),
        remote_id: Some("0x0004".to_owned()),
        subscriber_id: None,
    }
}

/// On the server's own network.
fn direct() -> Attachment {
    let (relay, circuit_id, remote_id, subscriber_id) = (None, None, None, None);
    Attachment { subnet: "10.0.0.0/24".to_owned(), relay, circuit_id, remote_id, subscriber_id }
}

fn mac(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("52:54:ff:{a:02x}:{b:02x}:{c:02x}")
}

async fn show(world: &World, agent: &Agent) -> MachineDetail {
    world.controller.machine(agent.machine.as_ref().unwrap()).await.unwrap()
}

/// The value of a fact as it is shown.
fn fact(machine: &MachineDetail, path: &str) -> String {
    machine.facts.get(path).map_or("-".to_owned(), ToString::to_string)
}

#[tokio::test]
async fn a_machine_gets_what_a_rule_says_of_its_port_wherever_facts_count() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    // Hardware addresses are the same however they are written.
    let told = agent.mac().to_uppercase().replace(':', "-");
    world.controller.attached(&told, port("ge-17"), 500);
    // What was told before a check-in counts in it.
    let order = world.install(&mut agent).await;
    assert_eq!(order.system.reference.to_string(), "web:2");

    let detail = show(&world, &agent).await;
    let places = ["network.relay", "network.circuit-id", "network.remote-id", "network.subnet"]
        .map(|path| fact(&detail, path));
    assert_eq!(places, ["\"10.0.9.1\"", "\"ge-17\"", "\"0x0004\"", "\"10.0.9.0/24\""]);
    assert_eq!(fact(&detail, "network.subscriber-id"), "-");
    let id = agent.machine.clone().unwrap();
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert_eq!(why.winner.as_deref(), Some("rack 12"));
    let policy = POLICY.replace("web:2", "base:1");
    let request = DryRunRequest { policy, instead_of: None, after: None };
    let tried = world.controller.dry_run(&request).await.unwrap();
    let ruling = tried.machines[0].after.as_ref().unwrap();
    assert_eq!((ruling.rule.as_str(), ruling.outcome.as_str()), ("rack 12", "image base:1"));
    let on = |on: &'static str| world.controller.machines(None, 10, Some(on));
    assert_eq!(on("network.circuit-id like \"ge-*\"").await.unwrap().machines.len(), 1);
    assert_eq!(on("network.circuit-id == \"ge-18\"").await.unwrap().machines.len(), 0);

    let client = BootClient { mac: agent.mac(), uuid: None, place: None };
    let boots = world.controller.boot_decision(&client).await.unwrap();
    assert_eq!(boots.decision, BootDecision::Disk, "{}", boots.reason);
    // It was moved: where it asks from counts at once, before anything is told or on record.
    let moved = BootClient { place: Some(port("ge-18")), ..client.clone() };
    let boots = world.controller.boot_decision(&moved).await.unwrap();
    assert_eq!(boots.decision, BootDecision::Loader, "{}", boots.reason);
    let boots = world.controller.boot_decision(&client).await.unwrap();
    assert_eq!(boots.decision, BootDecision::Disk, "{}", boots.reason);
    world.controller.attached(&agent.mac(), port("ge-18"), world.now);
    for _ in 0..2 {
        let boots = world.controller.boot_decision(&client).await.unwrap();
        assert_eq!(boots.decision, BootDecision::Loader, "{}", boots.reason);
        world.controller.record_attached().await.unwrap();
    }
    assert_eq!(hold(&world.check_in(&mut agent).await), "not in rack 12");
}

#[tokio::test]
async fn a_recipe_that_uses_the_port_makes_an_image_for_it() {
    let mut world = World::with("[[rule]]\nname = 'all'\nrecipe = 'b.toml'\n").await;
    world.workshop.change("b.toml", |recipe| recipe.uses = vec!["network.circuit-id"]);
    let mut keys = Vec::new();
    for (number, circuit) in [(1, "ge-17"), (2, "ge-18"), (3, "ge-17")] {
        let mut agent = Agent::new(number);
        world.controller.attached(&agent.mac(), port(circuit), 500);
        world.check_in(&mut agent).await;
        let why = world.controller.why(agent.machine.as_ref().unwrap(), world.now).await.unwrap();
        let build = &why.rules[0].builds[0].configuration;
        let used = build.facts["network.circuit-id"].as_ref().map(ToString::to_string);
        assert_eq!(used, Some(format!("{circuit:?}")));
        keys.push(build.key);
    }
    assert_eq!(keys[0], keys[2]);
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_restart_and_a_kill_keep_it() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.controller.attached(&agent.mac(), port("ge-17"), 500);
    world.controller.record_attached().await.unwrap();
    world.kill().await;
    deploy(&world.check_in(&mut agent).await);
    world.restart().await;
    assert_eq!(fact(&show(&world, &agent).await, "network.circuit-id"), "\"ge-17\"");
}

#[tokio::test]
async fn another_card_tells_nothing_of_a_machine() {
    let mut world = World::with(POLICY).await;
    let (mut one, mut other) = (Agent::new(1), Agent::new(2));
    world.controller.attached(&one.mac(), port("ge-17"), 500);
    world.controller.attached("not a card", port("ge-17"), 500);
    deploy(&world.check_in(&mut one).await);
    hold(&world.check_in(&mut other).await);
    let facts = show(&world, &other).await.facts;
    assert!(!facts.keys().any(|path| path.starts_with("network.")), "{facts:?}");
}

#[tokio::test]
async fn of_several_cards_the_one_that_was_given_an_address_last_tells() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    let second = Nic { name: "eth1".into(), mac: mac(7), ..Nic::default() };
    agent.inventory.nics.push(second);
    agent.inventory.network.relay = Some("10.8.8.8".into());
    agent.inventory.network.dhcp_server = Some("10.8.8.9".into());
    hold(&world.check_in(&mut agent).await);
    let reported = show(&world, &agent).await;
    assert_eq!(fact(&reported, "network.relay"), "\"10.8.8.8\"", "what it reports itself");
    for (card, there, now, relay, circuit) in [
        (agent.mac(), port("ge-17"), 100_000, "\"10.0.9.1\"", "\"ge-17\""),
        (mac(7), direct(), 200_000, "-", "-"),
        // Where it was before, but later.
        (agent.mac(), port("ge-17"), 300_000, "\"10.0.9.1\"", "\"ge-17\""),
    ] {
        world.controller.attached(&card, there, now);
        let answer = world.check_in(&mut agent).await;
        assert_eq!(matches!(answer.order, Order::Deploy(_)), circuit != "-", "{now}");
        let detail = show(&world, &agent).await;
        assert_eq!(fact(&detail, "network.relay"), relay, "{now}");
        assert_eq!(fact(&detail, "network.circuit-id"), circuit, "{now}");
        assert_eq!(fact(&detail, "network.dhcp-server"), "\"10.8.8.9\"");
    }
}

#[tokio::test]
async fn the_card_that_reached_the_server_tells_whichever_was_given_an_address_last() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    agent.inventory.nics[0].booted = true;
    agent.inventory.nics.push(Nic { name: "eth1".into(), mac: mac(7), ..Nic::default() });
    world.controller.attached(&agent.mac(), port("ge-17"), 100_000);
    world.controller.attached(&mac(7), direct(), 200_000);
    deploy(&world.check_in(&mut agent).await);
    assert_eq!(fact(&show(&world, &agent).await, "network.circuit-id"), "\"ge-17\"");
}

#[tokio::test]
async fn a_place_in_another_network_than_the_machine_is_in_now_does_not_count() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.controller.attached(&agent.mac(), port("ge-17"), 100_000);
    for (subnet, circuit) in [("10.0.9.0/24", "\"ge-17\""), ("10.5.0.0/24", "-")] {
        agent.inventory.network.subnet = Some(subnet.into());
        world.check_in(&mut agent).await;
        let shown = show(&world, &agent).await;
        assert_eq!(fact(&shown, "network.circuit-id"), circuit);
        assert_eq!(fact(&shown, "network.subnet"), format!("\"{subnet}\""));
    }
}

#[tokio::test]
async fn what_stays_as_it_is_is_written_once_a_minute() {
    let world = World::new().await;
    let recorded = || world.controller.metrics().attachments.get();
    for (there, now, expected) in [
        (port("ge-17"), 1_000, 1),
        (port("ge-17"), 2_000, 1),
        (port("ge-17"), 60_999, 1),
        (port("ge-18"), 61_000, 2),
        (port("ge-18"), 61_001, 2),
        (port("ge-18"), 121_000, 3),
    ] {
        world.controller.attached(&mac(1), there, now);
        world.controller.record_attached().await.unwrap();
        assert_eq!(recorded(), expected, "{now}");
    }
}

#[tokio::test]
async fn addresses_that_somebody_made_up_push_out_each_other_and_no_machine() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    world.controller.attached(&agent.mac(), port("ge-17"), 1);
    deploy(&world.check_in(&mut agent).await);
    let flood = UNKNOWN_MAX + 3000;
    for number in 0..flood {
        world.controller.attached(&mac(number), direct(), 1000 + u64::from(number));
        if number % 1000 == 999 {
            world.controller.record_attached().await.unwrap();
        }
    }
    world.controller.record_attached().await.unwrap();
    // One of the last ones checks in after all, and so does the first machine again.
    let mut last = Agent::new(2);
    last.inventory.nics[0].mac = mac(flood - 1);
    let told = world.check_in(&mut last).await;
    assert_eq!(hold(&told), "not in rack 12");
    assert_eq!(fact(&show(&world, &last).await, "network.subnet"), "\"10.0.0.0/24\"");
    deploy(&world.check_in(&mut agent).await);
    let mut first = Agent::new(3);
    first.inventory.nics[0].mac = mac(0);
    world.check_in(&mut first).await;
    assert_eq!(fact(&show(&world, &first).await, "network.subnet"), "-", "it was forgotten");
    assert_eq!(world.controller.metrics().attachments_dropped.get(), 0);
}

#[tokio::test]
async fn more_at_once_than_can_wait_are_dropped_and_counted() {
    let world = World::new().await;
    for number in 0..3000 {
        world.controller.attached(&mac(number), direct(), 1);
    }
    let dropped = world.controller.metrics().attachments_dropped.get();
    assert!((1..3000).contains(&dropped), "{dropped}");
    world.controller.record_attached().await.unwrap();
    assert_eq!(world.controller.metrics().attachments.get() + dropped, 3000);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_recorded_later_and_stops_nobody() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let gone = world.controller.clone();
    // The database is closed below it: whoever tells does not notice.
    world.restart().await;
    gone.attached(&agent.mac(), port("ge-17"), 1);
    assert!(gone.record_attached().await.is_err());
    assert!(gone.record_attached().await.is_err(), "it still waits");
    assert_eq!(gone.metrics().attachments.get(), 0);
    world.check_in(&mut agent).await;
}
