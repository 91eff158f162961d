use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::{Bus, Digest, DiskChoice, Making, ReceiptState};

use super::*;

fn image(image: u8, disk: DiskChoice) -> ImageOrder {
    let reference = format!("web:{image}").parse().unwrap();
    ImageOrder { image: Digest([image; 32]), reference, disk }
}

fn target(number: u8) -> Target {
    let system = image(number, DiskChoice::default());
    Target { rule: "all".into(), system, others: Vec::new(), start: Start::Kexec, makes: None }
}

fn serial(serial: &str) -> DiskChoice {
    DiskChoice { serial: Some(serial.into()), ..DiskChoice::default() }
}

/// A disk, and the image that its receipt tells of.
fn disk(serial: &str, image: Option<u8>) -> Disk {
    let receipt = image.map(|image| wire::Receipt {
        version: wire::Receipt::VERSION,
        state: ReceiptState::Installed,
        image: Digest([image; 32]),
        reference: "web:1".parse().unwrap(),
        run: "r-1".parse().unwrap(),
        machine: "m-1".parse().unwrap(),
        disk: Some(serial.into()),
        disk_bytes: 1 << 30,
    });
    Disk { size_bytes: 1 << 30, serial: Some(serial.into()), receipt, ..Disk::default() }
}

/// One machine, its current run, and how many runs it had.
struct World {
    machine: MachineId,
    held: Option<String>,
    run: Option<Run>,
    state: (MachineState, Option<String>),
    runs: u32,
    now: UnixMs,
}

/// What the tests say in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    order: String,
    run: Option<RunState>,
    machine: MachineState,
}

impl World {
    fn new() -> World {
        World {
            machine: "m-1".parse().unwrap(),
            held: None,
            run: None,
            state: (MachineState::Held, None),
            runs: 0,
            now: 0,
        }
    }

    fn report(&mut self, report: Report<'_>) -> Option<Changes> {
        self.now += 1;
        let held = self.held.clone();
        let recorded =
            Recorded { machine: &self.machine, held: held.as_deref(), run: self.run.as_ref() };
        let changes = reconcile(recorded, report, self.now)?;
        self.run = changes.run.clone();
        self.state = changes.machine.clone();
        Some(changes)
    }

    fn check_in(&mut self, boot: &str, disks: &[Disk], wanted: &Wanted) -> Changes {
        self.runs += 1;
        let fresh = format!("r-{}", self.runs).parse().unwrap();
        self.report(Report::CheckIn { boot, disks, wanted, fresh: &fresh }).unwrap()
    }

    fn deploy(&mut self, boot: &str, installed: Option<u8>, image: u8) -> Seen {
        let disks = [disk("a", installed)];
        let changes = self.check_in(boot, &disks, &Wanted::Deploy(Box::new(target(image))));
        self.seen(changes)
    }

    fn seen(&self, changes: Changes) -> Seen {
        let order = match changes.order {
            Some(Order::Deploy(order)) => {
                format!("{} attempt {} of {}", order.run, order.attempt, order.system.reference)
            }
            Some(Order::Hold(order)) => format!("hold: {}", order.reason),
            _ => "none".into(),
        };
        Seen { order, run: changes.run.map(|run| run.state), machine: changes.machine.0 }
    }

    fn attempt(&self) -> u32 {
        self.run.as_ref().map_or(1, |run| run.attempt)
    }

    fn start(&mut self, step: Step) {
        self.report(Report::Started { attempt: self.attempt(), step });
    }

    fn end(&mut self, step: Step, outcome: Outcome) {
        self.report(Report::Ended { attempt: self.attempt(), step, outcome: &outcome });
    }

    fn fail(&mut self, step: Step, cause: &str) {
        self.end(step, Outcome::Failed { cause: cause.into() });
    }

    fn run_state(&self) -> RunState {
        self.run.as_ref().unwrap().state
    }

    fn install(&mut self) {
        for step in [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start] {
            self.start(step);
            self.end(step, Outcome::Done);
        }
    }
}

fn seen(order: &str, run: RunState, machine: MachineState) -> Seen {
    Seen { order: order.into(), run: Some(run), machine }
}

#[test]
fn a_machine_is_installed_and_found_installed_at_its_next_boots() {
    let mut world = World::new();
    let ordered = seen("r-1 attempt 1 of web:1", RunState::Ordered, MachineState::Deploying);
    assert_eq!(world.deploy("a", None, 1), ordered);
    for (step, state) in [
        (Step::Plan, RunState::Planning),
        (Step::Transfer, RunState::Transferring),
        (Step::Verify, RunState::Verifying),
        (Step::Seal, RunState::Sealing),
        (Step::Start, RunState::Starting),
    ] {
        world.start(step);
        assert_eq!(world.run_state(), state);
        world.end(step, Outcome::Done);
    }
    assert_eq!((world.run_state(), world.state.0), (RunState::Succeeded, MachineState::Installed));
    // The answer was lost, and is given again.
    let again = seen("r-1 attempt 1 of web:1", RunState::Succeeded, MachineState::Installed);
    assert_eq!(world.deploy("a", Some(1), 1), again);
    // Every boot after that is a run of its own, which has nothing to do.
    let there = RunState::AlreadyInstalled;
    let found = seen("r-3 attempt 1 of web:1", there, MachineState::Installed);
    assert_eq!(world.deploy("b", Some(1), 1), found);
    world.start(Step::Plan);
    world.end(Step::Plan, Outcome::Done);
    world.end(Step::Transfer, Outcome::Skipped { reason: "installed".into() });
    world.start(Step::Start);
    let ended = |world: &World| world.run.as_ref().unwrap().ended;
    assert_eq!(ended(&world), None);
    world.end(Step::Start, Outcome::Done);
    assert_eq!((world.run_state(), ended(&world)), (there, Some(world.now)));
    // A disk that lost its receipt is installed again.
    let fresh = seen("r-4 attempt 1 of web:1", RunState::Ordered, MachineState::Deploying);
    assert_eq!(world.deploy("c", None, 1), fresh);
}

#[test]
fn a_check_in_amid_a_run_continues_it() {
    let mut world = World::new();
    let first = world.deploy("a", None, 1);
    assert_eq!(world.deploy("a", None, 1), first);
    world.start(Step::Transfer);
    let amid = seen("r-1 attempt 1 of web:1", RunState::Transferring, MachineState::Deploying);
    assert_eq!(world.deploy("a", None, 1), amid);
}

#[test]
fn three_failed_attempts_hold_the_machine_until_it_is_released_or_the_policy_changes() {
    let mut world = World::new();
    for attempt in 1..=3 {
        let order = format!("r-1 attempt {attempt} of web:1");
        assert_eq!(
            world.deploy("a", None, 1),
            seen(&order, RunState::Ordered, MachineState::Deploying)
        );
        world.start(Step::Transfer);
        world.fail(Step::Transfer, "disk full");
    }
    assert_eq!((world.run_state(), world.state.0), (RunState::Failed, MachineState::Held));
    let held = world.deploy("b", None, 1);
    assert_eq!(
        held.order,
        "hold: run r-1 failed 3 times, the last time because: disk full. Remove the cause, then \
         `ingot machine release m-1`"
    );
    assert_eq!((held.run, held.machine), (Some(RunState::Failed), MachineState::Held));
    // The failure told once more changes nothing.
    world.fail(Step::Transfer, "disk full");
    assert_eq!(world.attempt(), 3);
    // Another image is another run.
    assert_eq!(world.deploy("b", None, 2).order, "r-5 attempt 1 of web:2");
}

#[test]
fn a_machine_that_starts_anew_amid_a_run_has_failed_once_unless_it_was_done() {
    let mut world = World::new();
    world.deploy("a", None, 1);
    world.start(Step::Transfer);
    assert_eq!(world.deploy("b", None, 1).order, "r-1 attempt 2 of web:1");
    let cause = world.run.as_ref().unwrap().cause.clone();
    assert_eq!(cause.as_deref(), Some("the machine started anew while transferring"));
    world.start(Step::Start);
    // Its last events were lost, but its disk tells.
    let changes = world.check_in("c", &[disk("a", Some(1))], &Wanted::Deploy(Box::new(target(1))));
    assert_eq!(changes.closed.as_ref().map(|run| run.state), Some(RunState::Succeeded));
    assert_eq!(changes.run.as_ref().map(|run| run.state), Some(RunState::AlreadyInstalled));

    let mut world = World::new();
    for boot in ["a", "b", "c"] {
        world.deploy(boot, None, 1);
    }
    assert_eq!(world.run_state(), RunState::Ordered);
    let held = world.deploy("d", None, 1);
    assert!(held.order.starts_with("hold: run r-1 failed 3 times"), "{held:?}");
}

#[test]
fn only_the_receipt_of_the_disk_that_the_rule_means_counts() {
    let mut usb = disk("b", Some(1));
    usb.bus = Some(Bus::Usb);
    let mut half = disk("b", Some(1));
    half.receipt.as_mut().unwrap().state = ReceiptState::Installing;
    let mut copied = disk("b", Some(1));
    copied.receipt.as_mut().unwrap().disk = Some("a".into());
    let mut grown = disk("b", Some(1));
    grown.size_bytes += 512;
    let table = [
        (vec![disk("b", Some(1))], true),
        (vec![disk("a", None), disk("b", Some(1))], true),
        // The image is on the other disk.
        (vec![disk("a", Some(1)), disk("b", None)], false),
        (vec![disk("b", Some(2))], false),
        (vec![usb], false),
        (vec![disk("a", Some(1)), half], false),
        (vec![copied], false),
        (vec![grown], false),
    ];
    let wanted = Wanted::Deploy(Box::new(Target { system: image(1, serial("b")), ..target(1) }));
    for (disks, there) in table {
        let state = if there { RunState::AlreadyInstalled } else { RunState::Ordered };
        let changes = World::new().check_in("a", &disks, &wanted);
        assert_eq!(changes.run.unwrap().state, state, "{disks:?}");
        // After a power cut amid the run as well.
        let mut world = World::new();
        world.check_in("a", &[], &wanted);
        world.start(Step::Transfer);
        let run = world.check_in("b", &disks, &wanted).run.unwrap();
        assert_eq!((run.state, run.attempt), (state, if there { 1 } else { 2 }), "{disks:?}");
    }
}

#[test]
fn a_set_is_there_when_each_of_its_images_is_on_a_disk_of_its_own() {
    let wanted = |images: Vec<ImageOrder>| {
        let mut images = images.into_iter();
        let (system, others) = (images.next().unwrap(), images.collect());
        Target { system, others, ..target(1) }
    };
    let any = DiskChoice::default;
    let apart = wanted(vec![image(1, serial("a")), image(2, serial("b"))]);
    let twice = wanted(vec![image(1, any()), image(1, serial("a"))]);
    let table = [
        (&apart, vec![disk("a", Some(1)), disk("b", Some(2))], true),
        (&apart, vec![disk("a", Some(1)), disk("b", None)], false),
        (&apart, vec![disk("a", Some(1))], false),
        // Each is there, and on the other's disk.
        (&apart, vec![disk("a", Some(2)), disk("b", Some(1))], false),
        // One disk does not do for both, and whichever comes first.
        (&twice, vec![disk("a", Some(1))], false),
        (&twice, vec![disk("b", Some(1)), disk("c", Some(1))], false),
        (&twice, vec![disk("a", Some(1)), disk("b", Some(1))], true),
        (&twice, vec![disk("b", Some(1)), disk("a", Some(1))], true),
    ];
    for (target, disks, there) in table {
        assert_eq!(installed(&disks, target), there, "{target} on {disks:?}");
        let changes = World::new().check_in("a", &disks, &Wanted::Deploy(Box::new(target.clone())));
        let state = if there { RunState::AlreadyInstalled } else { RunState::Ordered };
        assert_eq!(changes.run.unwrap().state, state, "{target} on {disks:?}");
        let Some(Order::Deploy(order)) = changes.order else { panic!("{target}") };
        assert_eq!((&order.system, &order.others), (&target.system, &target.others));
    }
}

#[test]
fn a_set_that_changes_in_one_image_is_another_target() {
    let mut world = World::new();
    let set = |other: u8| {
        let others = vec![image(other, serial("b"))];
        Wanted::Deploy(Box::new(Target { others, ..target(1) }))
    };
    let first = world.check_in("a", &[], &set(2)).order;
    assert_eq!(world.check_in("a", &[], &set(2)).order, first);
    let changes = world.check_in("a", &[], &set(3));
    let cause = "web:1, web:2 was no longer wanted: rule \"all\" now says web:1, web:3";
    assert_eq!(changes.closed.unwrap().cause.as_deref(), Some(cause));
}

#[test]
fn a_start_that_fails_after_it_was_told_done_is_tried_again() {
    let mut world = World::new();
    world.deploy("a", None, 1);
    world.install();
    world.fail(Step::Start, "kexec: not permitted");
    assert_eq!((world.run_state(), world.state.0), (RunState::Retrying, MachineState::Deploying));
    assert_eq!(world.deploy("a", Some(1), 1).order, "r-1 attempt 2 of web:1");
}

#[test]
fn what_is_no_longer_wanted_ends() {
    let mut world = World::new();
    world.deploy("a", None, 1);
    let changes = world.check_in("a", &[], &Wanted::Deploy(Box::new(target(2))));
    let closed = changes.closed.unwrap();
    assert_eq!(closed.state, RunState::Superseded);
    assert_eq!(
        closed.cause.as_deref(),
        Some("web:1 was no longer wanted: rule \"all\" now says web:2")
    );
    // Late reports of the run before do not touch the new one.
    assert_eq!(world.attempt(), 1);

    let hold = world.check_in("a", &[], &Wanted::Hold("lunch".into()));
    assert_eq!(hold.run.unwrap().state, RunState::Superseded);
    assert_eq!(hold.machine, (MachineState::Held, Some("lunch".into())));
    let fail = world.check_in("a", &[], &Wanted::Fail("too old".into()));
    assert_eq!(fail.machine, (MachineState::Failed, Some("too old".into())));
    assert_eq!(world.deploy("a", None, 2).run, Some(RunState::Ordered));
}

#[test]
fn a_held_machine_waits_whatever_the_policy_says() {
    let mut world = World::new();
    world.held = Some("in repair".into());
    let held = world.deploy("a", None, 1);
    assert_eq!((held.order.as_str(), held.run), ("hold: in repair", None));
    world.held = None;
    assert_eq!(world.deploy("a", None, 1).run, Some(RunState::Ordered));
}

#[test]
fn reports_of_another_attempt_change_nothing() {
    let mut world = World::new();
    world.deploy("a", None, 1);
    world.deploy("b", None, 1);
    let before = world.run.clone();
    let outcome = Outcome::Failed { cause: "late".into() };
    assert_eq!(world.report(Report::Started { attempt: 1, step: Step::Seal }), None);
    assert_eq!(
        world.report(Report::Ended { attempt: 1, step: Step::Seal, outcome: &outcome }),
        None
    );
    assert_eq!(world.run, before);
}

#[derive(Debug, Clone)]
enum Act {
    CheckIn { boot: u8, installed: Vec<u8>, wanted: u8 },
    Start { attempt: u32, step: Step },
    End { attempt: u32, step: Step, outcome: Outcome },
    Hold,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop::sample::select(vec![
        Step::Inventory,
        Step::Plan,
        Step::Transfer,
        Step::Verify,
        Step::Seal,
        Step::Start,
        Step::Unknown,
    ])
}

fn act() -> impl Strategy<Value = Act> {
    let outcome = prop::sample::select(vec![
        Outcome::Done,
        Outcome::Skipped { reason: "x".into() },
        Outcome::Failed { cause: "y".into() },
        Outcome::Unknown,
    ]);
    let installed = prop::collection::vec(0..3_u8, 0..2);
    prop_oneof![
        6 => (0..4_u8, installed, 0..5_u8)
            .prop_map(|(boot, installed, wanted)| Act::CheckIn { boot, installed, wanted }),
        6 => (1..4_u32, step()).prop_map(|(attempt, step)| Act::Start { attempt, step }),
        6 => (1..4_u32, step(), outcome)
            .prop_map(|(attempt, step, outcome)| Act::End { attempt, step, outcome }),
        1 => Just(Act::Hold),
        1 => Just(Act::Release),
    ]
}

/// The first three are images.
fn wanted(number: u8) -> Wanted {
    match number {
        3 => Wanted::Hold("policy".into()),
        4 => Wanted::Fail("policy".into()),
        image => Wanted::Deploy(Box::new(target(image))),
    }
}

fn with_report<T>(act: &Act, runs: u32, then: impl FnOnce(Report<'_>) -> T) -> Option<T> {
    let fresh = format!("r-{runs}").parse().unwrap();
    match act {
        Act::CheckIn { boot, installed, wanted: number } => {
            let boot = boot.to_string();
            let disks: Vec<_> = installed.iter().map(|image| disk("a", Some(*image))).collect();
            let wanted = wanted(*number);
            Some(then(Report::CheckIn {
                boot: &boot,
                disks: &disks,
                wanted: &wanted,
                fresh: &fresh,
            }))
        }
        Act::Start { attempt, step } => {
            Some(then(Report::Started { attempt: *attempt, step: *step }))
        }
        Act::End { attempt, step, outcome } => {
            Some(then(Report::Ended { attempt: *attempt, step: *step, outcome }))
        }
        Act::Hold | Act::Release => None,
    }
}

fn check(world: &World, act: &Act, changes: &Changes) -> Result<(), TestCaseError> {
    if let Act::CheckIn { wanted: number, boot, .. } = act {
        match (&changes.order, wanted(*number)) {
            // No machine is ever told to deploy what no rule gives it.
            (Some(Order::Deploy(order)), Wanted::Deploy(target)) => {
                prop_assert_eq!(world.held.as_ref(), None);
                prop_assert_eq!(&order.system, &target.system);
                prop_assert_eq!(&order.others, &target.others);
                let run = changes.run.as_ref().unwrap();
                prop_assert_eq!((&order.run, order.attempt), (&run.id, run.attempt));
                prop_assert_eq!(&run.boot, &boot.to_string());
                prop_assert!(run.state != RunState::Failed && run.state != RunState::Superseded);
            }
            (Some(Order::Hold(_)), _) => {
                prop_assert!(changes.run.as_ref().is_none_or(|run| run.state.is_over()));
                prop_assert!(changes.machine.1.is_some());
            }
            (order, _) => prop_assert!(false, "{:?}", order),
        }
    } else {
        prop_assert_eq!(&changes.order, &None);
    }
    if let Some(run) = &changes.run {
        prop_assert!((1..=ATTEMPTS_MAX).contains(&run.attempt));
        let failed = run.state == RunState::Failed;
        prop_assert!(!failed || run.attempt == ATTEMPTS_MAX && run.cause.is_some());
    }
    prop_assert!(changes.closed.as_ref().is_none_or(|run| run.state.is_over()));
    Ok(())
}

proptest! {
    #[test]
    fn any_course_of_events_keeps_the_promises(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for (runs, act) in (1..).zip(&acts) {
            match act {
                Act::Hold => world.held = Some("operator".into()),
                Act::Release => world.held = None,
                _ => {}
            }
            let Some(Some(changes)) = with_report(act, runs, |report| world.report(report)) else {
                continue;
            };
            check(&world, act, &changes)?;
            // The same report once more changes nothing and is answered the same.
            let (run, state) = (world.run.clone(), world.state.clone());
            let again = with_report(act, runs + 1000, |report| world.report(report)).flatten();
            prop_assert_eq!(&world.run, &run);
            prop_assert_eq!(&world.state, &state);
            prop_assert_eq!(again.and_then(|again| again.order), changes.order);
        }
    }
}

/// An image that is to be made out of `base`.
fn make(base: u8) -> Wanted {
    let configuration = Configuration {
        key: Digest([base | 0x80; 32]),
        recipe: "gpu".into(),
        facts: BTreeMap::new(),
    };
    let target = Target { makes: Some(configuration.clone()), ..target(base) };
    let (script, environment) = ("#!/bin/sh\n".into(), BTreeMap::new());
    let making = Making { configuration, script, environment, timeout_secs: 60 };
    Wanted::Make(Box::new(Make { target, reason: "it is needed".into(), making }))
}

#[test]
fn a_run_that_makes_an_image_is_over_when_the_store_has_it() {
    let mut world = World::new();
    // That the base is on the disk does not matter: it may have been changed since.
    let disks = [disk("a", Some(1))];
    let changes = world.check_in("a", &disks, &make(1));
    let Some(Order::Make(order)) = changes.order else { panic!("{changes:?}") };
    assert_eq!((order.attempt, order.making.timeout_secs), (1, 60));
    assert_eq!(order.base, image(1, DiskChoice::default()));
    assert_eq!(world.run_state(), RunState::Ordered);
    world.end(Step::Transfer, Outcome::Skipped { reason: "there".into() });
    assert_eq!(world.run_state(), RunState::Ordered);
    for (step, state) in [(Step::Script, RunState::Scripting), (Step::Capture, RunState::Capturing)]
    {
        world.start(step);
        assert_eq!((world.run_state(), world.state.0), (state, MachineState::Deploying));
        world.end(step, Outcome::Done);
    }
    world.end(Step::Start, Outcome::Done);
    assert_eq!(world.run_state(), RunState::Capturing, "only the store can tell");
    let changes = world.report(Report::Made).unwrap();
    assert_eq!((world.run_state(), changes.machine.0), (RunState::Succeeded, MachineState::Held));
    // What comes late or twice changes nothing.
    assert_eq!(world.report(Report::Made), None);
    world.fail(Step::Capture, "no answer");
    assert_eq!(world.run_state(), RunState::Succeeded);
    assert_eq!(world.deploy("a", None, 9).order, "r-2 attempt 1 of web:9");
    assert_eq!(world.report(Report::Made), None, "this run installs");
    // Wanted again, it is made again.
    let again = world.check_in("a", &[], &make(1)).run.unwrap();
    world.report(Report::Made).unwrap();
    let changes = world.check_in("a", &[], &make(1));
    assert_ne!(changes.run.unwrap().id, again.id);
}

#[test]
fn an_image_that_could_not_be_made_is_tried_again_when_it_is_wanted_again() {
    let mut world = World::new();
    for boot in ["a", "b", "c"] {
        let changes = world.check_in(boot, &[disk("a", Some(1))], &make(1));
        assert!(matches!(changes.order, Some(Order::Make(_))), "{changes:?}");
        world.start(Step::Script);
    }
    assert_eq!(world.attempt(), 3);
    let changes = world.check_in("d", &[], &make(1));
    assert_eq!(world.run_state(), RunState::Failed);
    let reason = changes.machine.1.unwrap();
    assert!(reason.contains("the machine started anew while running the recipe's script"));
    // It would not be wanted if nobody had said that it be tried again.
    let changes = world.check_in("d", &[], &make(1));
    assert_eq!((changes.run.unwrap().attempt, world.run_state()), (1, RunState::Ordered));
    assert_eq!(changes.closed.unwrap().state, RunState::Failed);
}

#[test]
fn a_machine_that_is_not_heard_of_loses_its_run() {
    let mut world = World::new();
    world.check_in("a", &[], &make(1));
    let changes = gone(world.run.as_ref().unwrap(), "silence".into(), 70);
    let run = changes.run.unwrap();
    assert_eq!(
        (run.state, run.cause.as_deref(), run.ended),
        (RunState::Superseded, Some("silence"), Some(70))
    );
    assert_eq!(changes.machine, (MachineState::Held, Some("silence".into())));
    world.run = Some(run);
    assert_eq!(world.report(Report::Made), None);
    let changes = world.check_in("a", &[], &make(1));
    assert_eq!(changes.run.unwrap().state, RunState::Ordered);
}
