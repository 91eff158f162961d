//! The agent's loop against a controller in the same process: hold, deploy,
//! start, and the second time nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::server::Fault;
use crate::support::{Sample, Server, machine, order, report, sample};
use agent::agent::Agent;
use agent::console::Console;
use agent::controller::Controller;
use agent::inventory::{Reached, Roots};
use agent::net::dhcp::Lease;
use agent::net::held::Held;
use agent::report::Report;
use agent::start::Exit;
use store_remote::Options;
use wire::api::{CHECK_IN, CheckIn, CheckedIn, EventBatch, EventsSeen};
use wire::{AskOrder, Event, EventKind, HoldOrder, Order, Outcome, Receipt, Start, Step};

/// What a controller heard.
#[derive(Default)]
pub struct Heard {
    pub check_ins: Vec<CheckIn>,
    pub events: Vec<Event>,
}

/// A controller that gives these orders in turn, the last for ever.
pub fn controller(server: &Server, orders: Vec<Order>) -> Arc<Mutex<Heard>> {
    controller_with(server, orders, |_| {})
}

/// The same, with something that happens before the order of each turn.
pub fn controller_with(
    server: &Server,
    orders: Vec<Order>,
    before: impl Fn(usize) + Send + Sync + 'static,
) -> Arc<Mutex<Heard>> {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let shared = Arc::clone(&heard);
    server.on_post(Box::new(move |path, body| {
        let mut heard = shared.lock().unwrap();
        if path == CHECK_IN {
            heard.check_ins.push(serde_json::from_slice(body).unwrap());
            let turn = heard.check_ins.len().min(orders.len()) - 1;
            before(turn);
            let answer = CheckedIn { machine: machine(), order: orders[turn].clone() };
            return serde_json::to_vec(&answer).unwrap();
        }
        let batch: EventBatch = serde_json::from_slice(body).unwrap();
        let known = heard.events.len() as u64;
        heard.events.extend(batch.events.into_iter().filter(|event| event.seq > known));
        let seq = heard.events.last().unwrap().seq;
        assert_eq!(seq, heard.events.len() as u64, "no gap");
        serde_json::to_vec(&EventsSeen { seq }).unwrap()
    }));
    heard
}

/// An image, a server that has it, and a machine with room for it on its one disk.
pub fn lab() -> (Sample, Server, tempfile::TempDir, Roots) {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let root = tempfile::tempdir().unwrap();
    let roots = machine_with_disk(root.path(), vec![0x5a; sample.disk.len()]);
    (sample, server, root, roots)
}

/// A machine with one disk, which is a file.
fn machine_with_disk(root: &Path, disk: Vec<u8>) -> Roots {
    add_disk(root, "vda", "S-1", &disk);
    roots(root)
}

pub fn roots(root: &Path) -> Roots {
    Roots { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") }
}

/// Gives a machine a disk, which is a file.
pub fn add_disk(root: &Path, name: &str, serial: &str, disk: &[u8]) {
    let block = root.join("sys/block").join(name);
    fs::create_dir_all(block.join("device")).unwrap();
    fs::create_dir_all(block.join("queue")).unwrap();
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::write(block.join("size"), (disk.len() / 512).to_string()).unwrap();
    fs::write(block.join("serial"), serial).unwrap();
    fs::write(block.join("queue/logical_block_size"), "512").unwrap();
    fs::write(root.join("dev").join(name), disk).unwrap();
}

/// Boots the agent on that machine; gives how it left and what stood on the console.
pub fn boot(server: &Server, roots: &Roots) -> (Exit, String) {
    boot_with(server, &server.base, roots)
}

/// The same, with a store that the agent believes to be elsewhere.
pub fn boot_with(server: &Server, store: &str, roots: &Roots) -> (Exit, String) {
    let console = tempfile::NamedTempFile::new().unwrap();
    let exit = boot_at(server, store, roots, report(console.path()));
    (exit, fs::read_to_string(console.path()).unwrap())
}

/// The same, with consoles of its own.
pub fn boot_at(server: &Server, store: &str, roots: &Roots, report: Report) -> Exit {
    run(server, &agent(store, roots, report))
}

/// Runs an agent, and sends what happens.
fn run(server: &Server, agent: &Agent) -> Exit {
    let sender = agent.report.clone();
    let base = server.base.clone();
    std::thread::spawn(move || {
        let controller = Controller::new(&base);
        sender.log.send_all(&*sender.timing, |batch| controller.events(batch), |_| {})
    });
    agent.run(&Controller::new(&server.base))
}

fn agent(store: &str, roots: &Roots, report: Report) -> Agent {
    Agent {
        server: store.to_owned(),
        roots: roots.clone(),
        boot: "boot".into(),
        work: roots.dev.with_file_name("run"),
        reached: Reached { lease: Held::of(lease(0)), ..Reached::default() },
        report,
        options: Options { tries: 2, ..Options::default() },
    }
}

/// A lease in one of many subnets.
fn lease(subnet: u8) -> Lease {
    Lease {
        ip: [10, 9, subnet, 9].into(),
        mask: [255, 255, 255, 0].into(),
        router: None,
        server: None,
        resolvers: vec![[10, 9, 8, 7].into()],
        relay: None,
        duration: Duration::from_secs(600),
    }
}

pub fn deploy(sample: &Sample, start: Start) -> Order {
    Order::Deploy(wire::DeployOrder { start, ..order(sample) })
}

pub fn hold() -> Order {
    Order::Hold(HoldOrder { reason: "no rule matches".into(), retry_secs: 5 })
}

pub fn outcomes(events: &[Event]) -> Vec<(Step, Outcome)> {
    let ended = |event: &Event| match &event.kind {
        EventKind::StepEnded { step, outcome, .. } => Some((*step, outcome.clone())),
        _ => None,
    };
    events.iter().filter_map(ended).collect()
}

#[test]
fn holds_installs_leaves_and_the_next_time_only_leaves() {
    let (sample, server, root, roots) = lab();

    let orders = vec![hold(), Order::Unknown, deploy(&sample, Start::Reboot)];
    let heard = controller(&server, orders);
    // A controller that is away for a moment is asked again.
    server.fault(CHECK_IN, Fault::Hang);
    server.fault("/v1/agent/events", Fault::Status(500));
    let (exit, console) = boot(&server, &roots);
    assert_eq!(exit, Exit::Reboot);
    for part in ["This machine waits", "no rule matches", "does not know", "check-in: "] {
        assert!(console.contains(part), "{part}: {console}");
    }
    let steps = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start];
    let done = steps.map(|step| (step, Outcome::Done)).to_vec();
    assert_eq!(outcomes(&heard.lock().unwrap().events), done);
    assert!(server.take_pack_bytes() > 0);

    let heard = controller(&server, vec![deploy(&sample, Start::PowerOff)]);
    let before = fs::read(root.path().join("dev/vda")).unwrap();
    let (exit, _) = boot(&server, &roots);
    assert_eq!(exit, Exit::PowerOff);
    assert_eq!(server.take_pack_bytes(), 0, "no image byte");
    assert!(fs::read(root.path().join("dev/vda")).unwrap() == before, "nothing written");
    let heard = heard.lock().unwrap();
    let skipped: Vec<_> = outcomes(&heard.events)
        .into_iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Skipped { .. }))
        .map(|(step, _)| step)
        .collect();
    assert_eq!(skipped, steps[..4]);
    let receipt: Receipt = heard.check_ins[0].inventory.disks[0].receipt.clone().unwrap();
    assert_eq!((receipt.image, receipt.machine), (sample.digest(), machine()));
}

#[test]
fn a_blank_disk_beside_the_installed_one_does_not_keep_the_machine_from_starting() {
    let (sample, server, root, roots) = lab();
    controller(&server, vec![deploy(&sample, Start::PowerOff)]);
    assert_eq!(boot(&server, &roots).0, Exit::PowerOff);
    let installed = fs::read(root.path().join("dev/vda")).unwrap();

    add_disk(root.path(), "vdb", "S-2", &vec![0; sample.disk.len()]);
    let heard = controller(&server, vec![deploy(&sample, Start::PowerOff)]);
    server.take_pack_bytes();
    let (exit, console) = boot(&server, &roots);
    assert_eq!(exit, Exit::PowerOff, "{console}");
    assert_eq!(server.take_pack_bytes(), 0, "no image byte");
    assert!(fs::read(root.path().join("dev/vda")).unwrap() == installed, "nothing written");
    assert!(fs::read(root.path().join("dev/vdb")).unwrap() == vec![0; sample.disk.len()]);
    let last = outcomes(&heard.lock().unwrap().events).pop();
    assert_eq!(last, Some((Step::Start, Outcome::Done)));
}

#[test]
fn a_machine_that_moves_tells_where_it_is_with_the_next_try() {
    let (sample, server, _root, roots) = lab();
    let console = tempfile::NamedTempFile::new().unwrap();
    let agent = agent(&server.base, &roots, report(console.path()));
    let held = agent.reached.lease.clone();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    server.on_post(Box::new(move |path, body| {
        if path != CHECK_IN {
            let batch: EventBatch = serde_json::from_slice(body).unwrap();
            let seq = batch.events.last().unwrap().seq;
            return serde_json::to_vec(&EventsSeen { seq }).unwrap();
        }
        let asked: CheckIn = serde_json::from_slice(body).unwrap();
        let mut told = heard.lock().unwrap();
        told.push(asked.inventory.network.subnet.unwrap());
        // It is moved: after an order, and amid a check-in, whose answer is then lost.
        held.set(lease(u8::try_from(told.len()).unwrap()));
        let order = match told.len() {
            1 => hold(),
            2 => return b"nonsense".to_vec(),
            _ => deploy(&sample, Start::PowerOff),
        };
        serde_json::to_vec(&CheckedIn { machine: machine(), order }).unwrap()
    }));
    assert_eq!(run(&server, &agent), Exit::PowerOff);
    assert_eq!(*told.lock().unwrap(), ["10.9.0.0/24", "10.9.1.0/24", "10.9.2.0/24"]);
}

#[test]
fn a_question_is_put_to_the_person_and_the_answer_is_told_once() {
    let (sample, server, _root, roots) = lab();
    let ask = |name: &str| {
        Order::Ask(AskOrder {
            name: name.into(),
            text: format!("Which {name}?"),
            choices: vec!["db".into(), "web".into()],
            default: None,
            wait_secs: 3,
        })
    };
    let orders = vec![ask("role"), ask("size"), hold(), deploy(&sample, Start::PowerOff)];
    let heard = controller(&server, orders);
    // Somebody types something else, then an answer, and goes.
    let (ours, mut person) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    person.write_all(b"cache\n2\n").unwrap();
    let shown = tempfile::NamedTempFile::new().unwrap();
    let sink = fs::File::options().append(true).open(shown.path()).unwrap();
    let console = Arc::new(Console::to(vec![sink, fs::File::from(OwnedFd::from(ours))]));
    let report = Report { console, ..report(shown.path()) };
    assert_eq!(boot_at(&server, &server.base, &roots, report), Exit::PowerOff);

    let heard = heard.lock().unwrap();
    let told: Vec<_> = heard.check_ins.iter().map(|asked| asked.answers.clone()).collect();
    let one = |name: &str, answer: Option<&str>| {
        BTreeMap::from([(name.to_owned(), answer.map(str::to_owned))])
    };
    let expected = [BTreeMap::new(), one("role", Some("web")), one("size", None), BTreeMap::new()];
    assert_eq!(told, expected);
    let shown = fs::read_to_string(shown.path()).unwrap();
    for part in ["Which role?", "\"cache\" is none of db, web", "role is web", "Nobody answered"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let said = |text: &str| {
        let is = |kind: &EventKind| matches!(kind, EventKind::Log { line } if line.contains(text));
        heard.events.iter().any(|event| is(&event.kind))
    };
    assert!(said("Which role? Answered at the console: role is web"));
}

#[test]
fn a_disk_with_a_receipt_of_a_newer_agent_is_left_untouched() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let root = tempfile::tempdir().unwrap();
    let mut disk = vec![0x5a; sample.disk.len()];
    let at = usize::try_from(agent::receipt::START).unwrap();
    disk[at..at + 12].copy_from_slice(b"INGOTRCP\x02\0\0\0");
    let roots = machine_with_disk(root.path(), disk.clone());
    let orders = vec![deploy(&sample, Start::Reboot), deploy(&sample, Start::PowerOff)];
    let path = root.path().join("dev/vda");
    let heard = controller_with(&server, orders, move |turn| {
        if turn == 1 {
            assert!(fs::read(&path).unwrap() == disk, "nothing written");
            // Somebody gives up what is installed.
            fs::write(&path, vec![0x5a; disk.len()]).unwrap();
        }
    });
    assert_eq!(boot(&server, &roots).0, Exit::PowerOff);
    let failed = &outcomes(&heard.lock().unwrap().events)[0];
    assert!(
        matches!(failed, (Step::Plan, Outcome::Failed { cause })
            if cause.contains("left untouched") && cause.contains("use a newer agent")),
        "{failed:?}"
    );
}

#[test]
fn a_store_that_cannot_even_be_asked_is_a_failed_step() {
    let (sample, server, _root, roots) = lab();
    let heard = controller(&server, vec![deploy(&sample, Start::Reboot), hold()]);
    // The agent then holds for ever; it is left behind.
    std::thread::spawn(move || {
        let store = format!("{}/path", server.base);
        boot_with(&server, &store, &roots)
    });
    let failed = || outcomes(&heard.lock().unwrap().events).first().cloned();
    let failed = loop {
        match failed() {
            Some(failed) => break failed,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert!(matches!(failed, (Step::Plan, Outcome::Failed { .. })), "{failed:?}");
}

#[test]
fn a_failure_is_told_and_the_controller_decides() {
    let (wanted, missing) = (sample(512, 1), sample(512, 2));
    let server = Server::start(&[&wanted]);
    let root = tempfile::tempdir().unwrap();
    let roots = machine_with_disk(root.path(), vec![0x5a; wanted.disk.len()]);
    let mut nowhere = order(&wanted);
    nowhere.system.disk.serial = Some("another".into());
    let orders = vec![
        deploy(&missing, Start::Reboot),
        Order::Deploy(nowhere),
        deploy(&wanted, Start::Kexec),
    ];
    let heard = controller(&server, orders);
    let (exit, console) = boot(&server, &roots);
    assert_eq!(exit, Exit::Reboot, "kexec cannot work here: the image does not say how");
    assert!(console.contains("restarting the machine"), "{console}");
    let heard = heard.lock().unwrap();
    let causes: Vec<_> = outcomes(&heard.events)
        .into_iter()
        .filter_map(|(step, outcome)| match outcome {
            Outcome::Failed { cause } => Some((step, cause)),
            _ => None,
        })
        .collect();
    let expected = [
        (Step::Plan, "404"),
        (Step::Plan, "its serial is not \"another\""),
        (Step::Start, "does not say which kernel"),
    ];
    assert_eq!(causes.len(), expected.len(), "{causes:?}");
    for ((step, cause), (expected_step, part)) in causes.iter().zip(expected) {
        assert_eq!(*step, expected_step);
        assert!(cause.contains(part), "{cause}");
    }
    assert_eq!(heard.check_ins.len(), 3);
}
