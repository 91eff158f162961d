//! How long the answers of a controller may be.

use agent::controller::{Controller, ControllerError};
use agent::start::Exit;
use wire::api::{CheckIn, CheckedIn, VERSION};
use wire::{EventKind, HoldOrder, Inventory, MakeOrder, Making, Order, Start};

use crate::capture::configuration;
use crate::support::{Server, machine, order, sample};
use crate::whole::{boot, controller, deploy, hold, lab};

fn too_long() -> Order {
    Order::Hold(HoldOrder { reason: "x".repeat(Order::BYTES_MAX), retry_secs: 5 })
}

#[test]
fn the_longest_script_arrives_whole_and_what_is_longer_than_any_order_is_told_apart() {
    let server = Server::start(&[]);
    let make = |script: String| {
        Order::Make(Box::new(MakeOrder {
            run: "r-1".parse().unwrap(),
            attempt: 1,
            base: order(&sample(512, 1)).system,
            reason: "nobody has made it yet".into(),
            making: Making {
                configuration: configuration(),
                script,
                environment: [].into(),
                timeout_secs: 60,
            },
        }))
    };
    // Each byte takes six in JSON.
    let longest = make("\u{1}".repeat(Making::SCRIPT_BYTES_MAX));
    controller(&server, vec![longest.clone(), too_long()]);
    let asked = CheckIn {
        version: VERSION,
        boot: "boot".into(),
        agent: "0".into(),
        inventory: Inventory::default(),
        answers: [].into(),
    };
    let controller = Controller::new(&server.base);
    let answer = controller.check_in(&asked).unwrap();
    assert!(answer == CheckedIn { machine: machine(), order: longest });
    let error = controller.check_in(&asked).unwrap_err();
    assert!(matches!(error, ControllerError::TooLong { max: Order::BYTES_MAX, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("Update the boot assets") && !text.contains("right server"), "{text}");
}

#[test]
fn an_order_that_is_too_long_is_told_each_time_and_asked_for_again() {
    let (sample, server, _root, roots) = lab();
    let orders = vec![hold(), too_long(), too_long(), deploy(&sample, Start::PowerOff)];
    let heard = controller(&server, orders);
    let (exit, console) = boot(&server, &roots);
    assert_eq!(exit, Exit::PowerOff);
    let said = "the answer has more than";
    assert_eq!(console.matches(said).count(), 2, "{console}");
    let heard = heard.lock().unwrap();
    let told = |kind: &EventKind| matches!(kind, EventKind::Log { line } if line.contains(said));
    assert_eq!(heard.events.iter().filter(|event| told(&event.kind)).count(), 2);
}
