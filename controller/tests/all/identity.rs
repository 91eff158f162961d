//! Machines stay themselves, and two stay two.

use wire::admin::{HoldRequest, MachineState};

use crate::common::{Agent, World, deploy, hold};

#[tokio::test]
async fn a_machine_stays_itself_when_its_card_is_swapped() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let first = world.check_in(&mut agent).await;
    agent.inventory.nics[0].mac = "52:54:00:ff:ff:01".into();
    agent.restart();
    assert_eq!(world.check_in(&mut agent).await.machine, first.machine);
    let known = world.controller.machine(&first.machine).await.unwrap();
    assert_eq!(
        known.identifiers,
        [
            "uuid:00112233-4455-6677-8899-aabb00000001",
            "serial:acme/x1/sn-1",
            "mac:52:54:00:ff:ff:01"
        ]
    );
}

#[tokio::test]
async fn two_machines_with_one_hardware_address_stay_two() {
    let mut world = World::new().await;
    let (mut one, mut two) = (Agent::new(1), Agent::new(2));
    two.inventory.nics = one.inventory.nics.clone();
    let first = world.check_in(&mut one).await.machine;
    let second = world.check_in(&mut two).await.machine;
    assert_ne!(first, second);
    assert_eq!(world.check_in(&mut one).await.machine, first);
    assert_eq!(world.check_in(&mut two).await.machine, second);
}

#[tokio::test]
async fn doubt_holds_the_machine_until_a_person_says_that_it_is_one_of_its_own() {
    let mut world = World::new().await;
    let mut one = Agent::new(1);
    one.inventory.system.serial = None;
    let first = deploy(&world.check_in(&mut one).await);
    // The vendor gave the same UUID out twice, and no serial number.
    let mut two = Agent::new(2);
    two.inventory.system = one.inventory.system.clone();
    let answer = world.check_in(&mut two).await;
    let reason = hold(&answer);
    assert!(reason.starts_with("this may be m-000000000001 with changed hardware"), "{reason}");
    assert!(reason.ends_with(&format!("`ingot machine release {}`", answer.machine)), "{reason}");
    // It keeps its record while it waits, and the first one is not touched.
    two.restart();
    assert_eq!(world.check_in(&mut two).await, answer);
    assert_eq!(deploy(&world.check_in(&mut one).await), first);

    world.controller.release(&answer.machine, 5).await.unwrap();
    let released = world.check_in(&mut two).await;
    assert_eq!(released.machine, answer.machine);
    deploy(&released);
}

#[tokio::test]
async fn a_machine_that_may_be_either_of_two_names_both_and_neither_is_touched() {
    let mut world = World::new().await;
    let only_cards = |number: u32| {
        let mut agent = Agent::new(number);
        agent.inventory.system.serial = None;
        agent.inventory.system.uuid = Some("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF".into());
        agent
    };
    // A UUID of one byte is none: two machines that both have it are two.
    let (mut one, mut two) = (only_cards(1), only_cards(2));
    let first = deploy(&world.check_in(&mut one).await);
    let second = deploy(&world.check_in(&mut two).await);
    assert_ne!(one.machine, two.machine);

    let mut both = only_cards(3);
    both.inventory.nics = [one.inventory.nics.clone(), two.inventory.nics.clone()].concat();
    let reason = hold(&world.check_in(&mut both).await);
    let (a, b) = (one.machine.clone().unwrap(), two.machine.clone().unwrap());
    assert!(reason.starts_with(&format!("this may be {a} or {b} with changed")), "{reason}");
    assert_eq!(deploy(&world.check_in(&mut one).await), first);
    assert_eq!(deploy(&world.check_in(&mut two).await), second);
}

#[tokio::test]
async fn a_machine_stays_itself_when_its_disk_is_swapped_or_its_firmware_turns_its_uuid() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    agent.inventory.disks[0].wwid = Some("eui.0025385b01".into());
    let first = world.check_in(&mut agent).await.machine;
    let known = world.controller.machine(&first).await.unwrap();
    assert_eq!(known.identifiers.last().unwrap(), "disk:eui.0025385b01");
    agent.inventory.disks[0].wwid = Some("eui.0025385b99".into());
    assert_eq!(world.check_in(&mut agent).await.machine, first);
    // The other byte order, with no serial number beside it, and another card later.
    agent.inventory.system.serial = None;
    agent.inventory.system.uuid = Some("33221100-5544-7766-8899-aabb00000001".into());
    assert_eq!(world.check_in(&mut agent).await.machine, first);
}

#[tokio::test]
async fn a_machine_that_cannot_be_recognised_is_refused() {
    let world = World::new().await;
    let mut agent = Agent::new(1);
    agent.inventory.system = wire::System::default();
    agent.inventory.nics.clear();
    let error = world.controller.check_in(&agent.asks(), 1).await.unwrap_err().to_string();
    assert!(error.starts_with("this machine reports nothing to recognise it by"), "{error}");
    assert_eq!(world.controller.machines(None, 10, None).await.unwrap().machines, []);
}

#[tokio::test]
async fn an_operator_holds_and_releases() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let id = world.check_in(&mut agent).await.machine;
    let request = HoldRequest { reason: "in repair".into() };
    world.controller.hold(&id, &request).await.unwrap();
    assert_eq!(hold(&world.check_in(&mut agent).await), "in repair");
    let held = world.controller.machine(&id).await.unwrap();
    assert_eq!(held.summary.state, MachineState::Held);
    assert_eq!(held.summary.reason.as_deref(), Some("in repair"));
    world.controller.release(&id, 5).await.unwrap();
    deploy(&world.check_in(&mut agent).await);
}
