//! A controller on a database of its own, a store that is a table, and agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controller::{Asking, BuildOptions, Controller, Db, Images, Policy, PolicyFile, Random};
use wire::admin::LabelChange;
use wire::api::{CheckIn, CheckedIn, EventBatch, EventsSeen};
use wire::{
    DeployOrder, Digest, Disk, Event, EventKind, Inventory, MachineId, Nic, Order, Outcome,
    Receipt, ReceiptState, Reference, RunId, Step, System,
};

use crate::workshop::Workshop;

/// The images that a test's store has, by their names, and those without one.
#[derive(Default)]
pub struct Table(pub Mutex<BTreeMap<String, Digest>>, pub Mutex<BTreeSet<Digest>>);

impl Images for Table {
    fn name<'a>(&'a self, image: &'a Digest, reference: &'a Reference) -> Asking<'a, bool> {
        Box::pin(async move {
            let is_there = self.1.lock().unwrap().contains(image);
            if is_there {
                self.0.lock().unwrap().insert(reference.to_string(), *image);
            }
            Ok(is_there)
        })
    }

    fn resolve<'a>(&'a self, reference: &'a Reference) -> Asking<'a, Option<Digest>> {
        Box::pin(async move {
            match reference.name.as_str() {
                "broken" => Err("no such bucket".into()),
                _ => Ok(self.0.lock().unwrap().get(&reference.to_string()).copied()),
            }
        })
    }
}

/// Names that count, across restarts of the controller too.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Random for Counter {
    fn name(&self) -> String {
        format!("{:012x}", self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A controller that can be stopped and started at any point.
pub struct World {
    pub dir: tempfile::TempDir,
    pub images: Arc<Table>,
    pub workshop: Workshop,
    random: Arc<Counter>,
    policy: Policy,
    pub controller: Arc<Controller>,
    db: Db,
    pub now: u64,
}

/// Builds that run at a time.
pub const AT_ONCE: usize = 2;

pub const POLICY: &str = r#"
[[rule]]
name = "web"
when = 'label.role == "web"'
image = "web:2"

[[rule]]
name = "refused"
when = 'system.manufacturer == "Ancient"'
fail = "too old"

[[rule]]
name = "ghost"
when = 'label.role == "ghost"'
image = "ghost:1"

[[rule]]
name = "broken"
when = 'label.role == "broken"'
image = "broken"

[[rule]]
name = "rest"
when = 'system.manufacturer == "Acme"'
image = "base:1"
start = "reboot"
"#;

impl World {
    pub async fn new() -> World {
        World::with(POLICY).await
    }

    pub async fn with(policy: &str) -> World {
        let dir = tempfile::tempdir().unwrap();
        let images = Arc::new(Table::default());
        for (number, name) in [(1, "base:1"), (2, "web:2")] {
            images.0.lock().unwrap().insert(name.to_owned(), Digest([number; 32]));
        }
        let random = Arc::new(Counter::default());
        let workshop = Workshop::new(images.clone());
        let policy = Policy::parse(policy).unwrap();
        let path = dir.path().join("c.db");
        let (db, controller) = start(path, &policy, &images, &random, &workshop).await;
        World { dir, images, workshop, random, policy, controller, db, now: 1000 }
    }

    /// Stops the controller and starts another on the same records.
    pub async fn restart(&mut self) {
        self.restart_after(|_| ()).await;
    }

    /// As [`World::restart`]; in between something happens to the database.
    pub async fn restart_after(&mut self, happens: impl FnOnce(&Path)) {
        self.db.close().await;
        let path = self.dir.path().join("c.db");
        happens(&path);
        self.workshop.stop();
        (self.db, self.controller) =
            start(path, &self.policy, &self.images, &self.random, &self.workshop).await;
    }

    /// Kills the controller, and starts another on what is on the disk at that moment.
    pub async fn kill(&mut self) {
        let names = ["c.db", "c.db-wal"];
        let left = names.map(|name| std::fs::read(self.dir.path().join(name)).unwrap_or_default());
        self.restart_after(|db| {
            for (name, bytes) in names.iter().zip(left) {
                std::fs::write(db.with_file_name(name), bytes).unwrap();
            }
        })
        .await;
    }

    /// Stops the controller and starts another that has this policy.
    pub async fn restart_with(&mut self, policy: &str) {
        self.policy = Policy::parse(policy).unwrap();
        self.restart().await;
    }

    pub async fn check_in(&mut self, agent: &mut Agent) -> CheckedIn {
        self.now += 10;
        let answer = self.controller.check_in(&agent.asks(), self.now).await.unwrap();
        agent.machine = Some(answer.machine.clone());
        answer
    }

    pub async fn send(&mut self, batch: &EventBatch) -> EventsSeen {
        self.now += 10;
        self.controller.events(batch, self.now).await.unwrap()
    }

    /// Checks in, expects an order to deploy, and reports all steps done.
    pub async fn install(&mut self, agent: &mut Agent) -> DeployOrder {
        let order = deploy(&self.check_in(agent).await);
        for step in [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start] {
            let events = [started(step), ended(step, Outcome::Done)];
            let batch = agent.tells(&order, events);
            self.send(&batch).await;
        }
        agent.receipt = Some(order.system.image);
        order
    }
}

async fn start(
    path: PathBuf,
    policy: &Policy,
    images: &Arc<Table>,
    random: &Arc<Counter>,
    workshop: &Workshop,
) -> (Db, Arc<Controller>) {
    let db = Db::open(&path).await.unwrap();
    let policy = PolicyFile::fixed(policy.clone());
    let (images, random) = (images.clone(), random.clone());
    let workshop = Arc::new(workshop.clone());
    let options = BuildOptions { at_once: AT_ONCE, settle: Duration::ZERO };
    let controller = Controller::new(db.clone(), policy, images, random, workshop, options);
    (db, Arc::new(controller))
}

/// One machine's agent.
#[derive(Clone)]
pub struct Agent {
    pub number: u32,
    pub boot: u32,
    pub receipt: Option<Digest>,
    pub inventory: Inventory,
    pub machine: Option<MachineId>,
    /// What its person answered since the last check-in.
    pub answers: BTreeMap<String, Option<String>>,
    seq: u64,
}

impl Agent {
    /// A machine with a UUID, a serial number and a card of its own.
    pub fn new(number: u32) -> Agent {
        let mut agent = Agent {
            number,
            boot: 1,
            receipt: None,
            inventory: Inventory::default(),
            machine: None,
            answers: BTreeMap::new(),
            seq: 0,
        };
        agent.inventory.system = System {
            manufacturer: Some("Acme".into()),
            product: Some("X1".into()),
            serial: Some(format!("SN-{number}")),
            uuid: Some(format!("00112233-4455-6677-8899-aabb{number:08x}")),
            ..System::default()
        };
        let mac = format!("52:54:00:00:{:02x}:{:02x}", number / 256, number % 256);
        agent.inventory.nics = vec![Nic { name: "eth0".into(), mac, ..Nic::default() }];
        agent.inventory.disks = vec![Disk { size_bytes: 8 << 30, ..Disk::default() }];
        agent
    }

    pub fn mac(&self) -> String {
        self.inventory.nics[0].mac.clone()
    }

    /// The machine is switched off and on.
    pub fn restart(&mut self) {
        self.boot += 1;
        self.seq = 0;
    }

    pub fn boot_name(&self) -> String {
        format!("{:016x}{:016x}", self.number, self.boot)
    }

    pub fn asks(&self) -> CheckIn {
        let mut inventory = self.inventory.clone();
        let disk = inventory.disks[0].serial.clone();
        inventory.disks[0].receipt =
            self.receipt.map(|image| Receipt { disk, ..receipt("", image) });
        let (boot, agent) = (self.boot_name(), "0.1.0".to_owned());
        let (version, answers) = (wire::api::VERSION, self.answers.clone());
        CheckIn { version, boot, agent, inventory, answers }
    }

    /// The next events of an order.
    pub fn tells(
        &mut self,
        order: &DeployOrder,
        kinds: impl IntoIterator<Item = EventKind>,
    ) -> EventBatch {
        self.tells_of(&order.run, order.attempt, kinds)
    }

    /// The next events of a run.
    pub fn tells_of(
        &mut self,
        run: &RunId,
        attempt: u32,
        kinds: impl IntoIterator<Item = EventKind>,
    ) -> EventBatch {
        let events = kinds
            .into_iter()
            .map(|kind| {
                self.seq += 1;
                Event {
                    seq: self.seq,
                    uptime_ms: self.seq * 100,
                    run: Some(run.clone()),
                    attempt,
                    kind,
                }
            })
            .collect();
        let machine = self.machine.clone().expect("checked in before it reports");
        EventBatch { machine, boot: self.boot_name(), events }
    }
}

/// The receipt of an image on the disk with this serial number.
pub fn receipt(serial: &str, image: Digest) -> Receipt {
    Receipt {
        version: Receipt::VERSION,
        state: ReceiptState::Installed,
        image,
        reference: "any".parse().unwrap(),
        run: "r-1".parse().unwrap(),
        machine: "m-1".parse().unwrap(),
        disk: Some(serial.to_owned()),
        disk_bytes: 8 << 30,
    }
}

/// A disk for the system, and one for something else.
pub fn two_disks() -> Vec<Disk> {
    let disk = |serial: &str| Disk {
        size_bytes: 8 << 30,
        serial: Some(serial.to_owned()),
        ..Disk::default()
    };
    vec![disk("S"), disk("D")]
}

pub fn started(step: Step) -> EventKind {
    EventKind::StepStarted { step }
}

pub fn ended(step: Step, outcome: Outcome) -> EventKind {
    EventKind::StepEnded { step, outcome, elapsed_ms: 5, received_bytes: 0, written_bytes: 0 }
}

pub fn line(text: &str) -> EventKind {
    EventKind::Log { line: text.to_owned() }
}

pub fn failed(cause: &str) -> Outcome {
    Outcome::Failed { cause: cause.to_owned() }
}

/// Labels a machine with a role.
pub fn role(role: &str) -> LabelChange {
    LabelChange { set: BTreeMap::from([("role".into(), role.into())]), remove: Vec::new() }
}

pub fn deploy(answer: &CheckedIn) -> DeployOrder {
    match &answer.order {
        Order::Deploy(order) => order.clone(),
        other => panic!("expected an order to deploy, got {other:?}"),
    }
}

pub fn hold(answer: &CheckedIn) -> String {
    match &answer.order {
        Order::Hold(order) => order.reason.clone(),
        other => panic!("expected a hold, got {other:?}"),
    }
}
