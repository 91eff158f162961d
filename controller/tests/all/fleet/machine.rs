//! A machine and its agent, as far as the controller sees them.

use std::collections::VecDeque;

use wire::api::{CheckedIn, EventBatch};
use wire::{DeployOrder, Digest, Event, EventKind, Outcome, RunId, Step};

use super::rules::{DISKS, MAKERS, Traits};
use super::site::Expected;
use crate::common::{Agent, ended, failed, receipt, started, two_disks};

const STEPS: [Step; 5] = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start];

/// An event that the record must have.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub boot: String,
    pub seq: u64,
    pub run: RunId,
    pub kind: EventKind,
}

pub struct Machine {
    pub agent: Agent,
    pub traits: Traits,
    /// Most events that it tells at once.
    pub batch: usize,
    /// Whether an operator holds it.
    pub held: bool,
    pub doing: Doing,
    /// Events that were not acknowledged.
    unsent: Vec<Event>,
    /// All that was acknowledged, or recorded with the answer lost.
    pub journal: Vec<Told>,
    /// An answer of this boot that got lost, and what made it so.
    pub lost: Option<(Expected, CheckedIn)>,
}

/// What it is about to do.
#[derive(Debug, Clone)]
pub enum Doing {
    CheckIn,
    /// It carries an order out: these steps are to come.
    Steps(Box<DeployOrder>, VecDeque<EventKind>),
    /// It runs the installed OS.
    Over,
}

impl Machine {
    pub fn new(number: u32) -> Machine {
        let mut agent = Agent::new(number);
        let maker = usize::try_from(number % 2).unwrap();
        let memory_gib = if number % 4 < 2 { 8 } else { 64 };
        agent.inventory.system.manufacturer = Some(MAKERS[maker].to_owned());
        agent.inventory.disks = two_disks();
        agent.inventory.memory.usable_bytes = Some(memory_gib << 30);
        Machine {
            agent,
            traits: Traits { role: None, maker, memory_gib },
            batch: usize::try_from(1 + number % 4).unwrap(),
            held: false,
            doing: Doing::CheckIn,
            unsent: Vec::new(),
            journal: Vec::new(),
            lost: None,
        }
    }

    /// What its disks have.
    pub fn installed(&self) -> [Option<Digest>; 2] {
        let other = self.agent.inventory.disks[1].receipt.as_ref();
        [self.agent.receipt, other.map(|receipt| receipt.image)]
    }

    /// Off and on: what was not acknowledged is gone.
    pub fn reboot(&mut self) {
        self.agent.restart();
        self.unsent.clear();
        (self.doing, self.lost) = (Doing::CheckIn, None);
    }

    /// Begins to carry an order out.
    pub fn obey(&mut self, order: &DeployOrder) {
        let there = order.images().zip(self.installed()).all(|(i, there)| there == Some(i.image));
        let skipped = Outcome::Skipped { reason: "it is there".to_owned() };
        let script = match there {
            false => STEPS.iter().flat_map(|s| [started(*s), ended(*s, Outcome::Done)]).collect(),
            true => VecDeque::from([
                started(Step::Plan),
                ended(Step::Plan, Outcome::Done),
                ended(Step::Transfer, skipped),
                started(Step::Start),
                ended(Step::Start, Outcome::Done),
            ]),
        };
        self.doing = Doing::Steps(Box::new(order.clone()), script);
    }

    /// The step that it is at fails, and it gives up until it is switched on again.
    pub fn fail(&mut self) {
        if let Doing::Steps(_, script) = &mut self.doing
            && let Some(EventKind::StepStarted { step } | EventKind::StepEnded { step, .. }) =
                script.front()
        {
            *script = VecDeque::from([ended(*step, failed("bad cable"))]);
        }
    }

    /// Goes on, and has this to tell.
    pub fn tells(&mut self) -> EventBatch {
        let Doing::Steps(order, script) = &mut self.doing else { panic!("it has no order") };
        let kinds: Vec<_> = script.drain(..self.batch.min(script.len())).collect();
        for kind in &kinds {
            match kind {
                EventKind::StepStarted { step: Step::Transfer } => {
                    for (n, _) in order.images().enumerate() {
                        put(&mut self.agent, n, None);
                    }
                }
                EventKind::StepEnded { step: Step::Seal, outcome: Outcome::Done, .. } => {
                    for (n, image) in order.images().enumerate() {
                        put(&mut self.agent, n, Some(image.image));
                    }
                }
                _ => {}
            }
        }
        let mut batch = self.agent.tells(order, kinds);
        self.unsent.append(&mut batch.events);
        batch.events.clone_from(&self.unsent);
        batch
    }

    /// The controller has recorded a batch.
    pub fn recorded(&mut self, batch: &EventBatch) {
        let known = |event: &Event| {
            self.journal.iter().any(|told| told.boot == batch.boot && told.seq == event.seq)
        };
        let new: Vec<_> = batch.events.iter().filter(|event| !known(event)).cloned().collect();
        self.journal.extend(new.into_iter().map(|event| Told {
            boot: batch.boot.clone(),
            seq: event.seq,
            run: event.run.unwrap(),
            kind: event.kind,
        }));
    }

    /// The agent knows that a batch was recorded.
    pub fn acknowledged(&mut self, seq: u64) {
        self.unsent.retain(|event| event.seq > seq);
        assert!(self.unsent.is_empty(), "all of it follows on what is recorded");
        if let Doing::Steps(_, script) = &self.doing
            && script.is_empty()
        {
            match self.journal.last().map(|told| &told.kind) {
                Some(EventKind::StepEnded { outcome: Outcome::Failed { .. }, .. }) => self.reboot(),
                _ => self.doing = Doing::Over,
            }
        }
    }
}

/// From now on a disk has this.
fn put(agent: &mut Agent, disk: usize, image: Option<Digest>) {
    match disk {
        0 => agent.receipt = image,
        _ => agent.inventory.disks[disk].receipt = image.map(|image| receipt(DISKS[disk], image)),
    }
}
