//! A controller and its fleet: what can happen to them, and what must be true
//! after each answer.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use wire::admin::{HoldRequest, LIST_MAX, LabelChange, MachineState, RunState};
use wire::api::CheckedIn;
use wire::{Digest, DiskChoice, ImageOrder, Order, Start};

use super::machine::{Doing, Machine, Told};
use super::rules::{DISKS, Gives, IMAGES, ROLES, Rules};
use crate::common::World;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// The controller does it, and the answer does not arrive.
    AnswerLost,
    /// The controller stops after so many polls of it; the agent repeats itself.
    Stopped(usize),
}

#[derive(Debug, Clone)]
pub enum Act {
    /// A machine does what it is about to do.
    Turn(usize, Fate),
    Reboot(usize),
    StepFails(usize),
    Label(usize, usize),
    Hold(usize),
    Release(usize),
    /// A name means this image now, or none.
    Tag(usize, Option<u8>),
    Policy(Rules),
    /// The controller is stopped and started.
    Restart,
    /// The controller is killed and started.
    Kill,
}

/// What the policy gives a machine, by the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Wait,
    Deploy { rule: String, images: Vec<ImageOrder>, start: Start },
}

pub struct Site {
    pub world: World,
    pub machines: Vec<Machine>,
    rules: Rules,
    images: BTreeMap<usize, Digest>,
}

impl Site {
    /// A fleet that nobody has seen yet, of machines with these numbers.
    pub async fn new(rules: Rules, numbers: std::ops::Range<u32>) -> Site {
        let world = World::with(&rules.toml()).await;
        let machines = numbers.map(Machine::new).collect();
        let mut site = Site { world, machines, rules, images: BTreeMap::new() };
        for image in 0..IMAGES.len() {
            site.tag(image, Some(u8::try_from(image).unwrap() + 1));
        }
        site
    }

    pub async fn apply(&mut self, act: &Act) {
        match act {
            Act::Turn(n, fate) => self.turn(*n, *fate).await,
            Act::Reboot(n) => self.machines[*n].reboot(),
            Act::StepFails(n) => self.machines[*n].fail(),
            Act::Label(n, role) => self.label(*n, *role).await,
            Act::Hold(n) => self.hold(*n).await,
            Act::Release(n) => self.release(*n).await,
            Act::Tag(image, version) => self.tag(*image, *version),
            Act::Policy(rules) => {
                self.rules = rules.clone();
                self.world.restart_with(&rules.toml()).await;
            }
            Act::Restart => self.world.restart().await,
            Act::Kill => self.world.kill().await,
        }
    }

    async fn turn(&mut self, n: usize, fate: Fate) {
        match self.machines[n].doing {
            Doing::CheckIn => self.check_in(n, fate).await,
            Doing::Steps(..) => self.report(n, fate).await,
            Doing::Over => {}
        }
    }

    async fn check_in(&mut self, n: usize, fate: Fate) {
        let asked = self.machines[n].agent.asks();
        if let Fate::Stopped(polls) = fate {
            let controller = self.world.controller.clone();
            broken_off(controller.check_in(&asked, self.world.now), polls).await;
            self.world.restart().await;
        }
        let answer = self.world.controller.check_in(&asked, self.world.now).await.unwrap();
        let expected = self.expected(n);
        self.judge(n, &expected, &answer).await;
        let machine = &mut self.machines[n];
        machine.agent.machine = Some(answer.machine.clone());
        match &answer.order {
            _ if fate == Fate::AnswerLost => machine.lost = Some((expected, answer)),
            Order::Deploy(order) => machine.obey(order),
            _ => machine.lost = None,
        }
    }

    async fn report(&mut self, n: usize, fate: Fate) {
        let batch = self.machines[n].tells();
        if let Fate::Stopped(polls) = fate {
            let controller = self.world.controller.clone();
            broken_off(controller.events(&batch, self.world.now), polls).await;
            self.world.restart().await;
        }
        let seen = self.world.controller.events(&batch, self.world.now).await.unwrap();
        assert_eq!(Some(seen.seq), batch.events.last().map(|event| event.seq));
        self.machines[n].recorded(&batch);
        if fate != Fate::AnswerLost {
            self.machines[n].acknowledged(seen.seq);
        }
    }

    /// What a machine is to be told now.
    fn expected(&self, n: usize) -> Expected {
        let machine = &self.machines[n];
        let (rule, images, start) = match self.rules.give(machine.traits) {
            Some((rule, Gives::Image(image, start))) => (rule, vec![image], start),
            Some((rule, Gives::Set(images, start))) => (rule, images.to_vec(), start),
            _ => return Expected::Wait,
        };
        let order = |(image, serial): (&usize, &str)| {
            let disk = DiskChoice { serial: Some(serial.to_owned()), ..DiskChoice::default() };
            let reference = IMAGES[*image].parse().unwrap();
            Some(ImageOrder { image: *self.images.get(image)?, reference, disk })
        };
        let images: Option<Vec<_>> = images.iter().zip(DISKS).map(order).collect();
        match images {
            Some(images) if !machine.held => Expected::Deploy { rule, images, start },
            _ => Expected::Wait,
        }
    }

    /// An order is what the policy gives, to whom, now; and said again if asked again.
    async fn judge(&self, n: usize, expected: &Expected, answer: &CheckedIn) {
        let machine = &self.machines[n];
        let known = machine.agent.machine.as_ref();
        assert!(known.is_none_or(|known| *known == answer.machine), "{known:?}: {answer:?}");
        // A hold may have another reason by now.
        if let Some((before, lost)) = &machine.lost
            && before == expected
            && *expected != Expected::Wait
        {
            assert_eq!(lost, answer, "what was lost is said again");
        }
        let controller = &self.world.controller;
        match (expected, &answer.order) {
            (Expected::Wait, Order::Hold(_)) => {}
            (Expected::Deploy { rule, images, start }, Order::Deploy(order)) => {
                assert_eq!(order.images().cloned().collect::<Vec<_>>(), *images);
                assert_eq!(order.start, *start);
                let run = controller.run(&order.run).await.unwrap().summary;
                assert_eq!((&run.rule, &run.machine), (rule, &answer.machine));
                assert_eq!(run.attempt, order.attempt);
            }
            (Expected::Deploy { images, .. }, Order::Hold(hold)) => {
                let detail = controller.machine(&answer.machine).await.unwrap();
                let run =
                    detail.runs.iter().find(|run| Some(&run.id) == detail.summary.run.as_ref());
                let run = run.unwrap();
                let first = images[0].image;
                assert_eq!((run.state, run.attempt, run.image), (RunState::Failed, 3, first));
                assert_eq!(run.others, images[1..]);
                assert!(hold.reason.contains("failed 3 times"), "{hold:?}");
            }
            (_, order) => panic!("no rule gives machine {n} {order:?}; it gets {expected:?}"),
        }
    }

    async fn label(&mut self, n: usize, role: usize) {
        let Some(id) = &self.machines[n].agent.machine else { return };
        let set = [("role".to_owned(), ROLES[role].to_owned())].into();
        let change = LabelChange { set, ..LabelChange::default() };
        self.world.controller.label(id, &change).await.unwrap();
        self.machines[n].traits.role = Some(role);
    }

    async fn hold(&mut self, n: usize) {
        let Some(id) = &self.machines[n].agent.machine else { return };
        let request = HoldRequest { reason: "lunch".to_owned() };
        self.world.controller.hold(id, &request).await.unwrap();
        self.machines[n].held = true;
    }

    async fn release(&mut self, n: usize) {
        let Some(id) = &self.machines[n].agent.machine else { return };
        self.world.controller.release(id, self.world.now).await.unwrap();
        // A failed run is given again, as another one.
        (self.machines[n].held, self.machines[n].lost) = (false, None);
    }

    fn tag(&mut self, image: usize, version: Option<u8>) {
        let mut table = self.world.images.0.lock().unwrap();
        let name = IMAGES[image].to_owned();
        match version.map(|version| Digest([version; 32])) {
            Some(digest) => (table.insert(name, digest), self.images.insert(image, digest)),
            None => (table.remove(&name), self.images.remove(&image)),
        };
    }

    /// Nothing goes wrong any more, every rule gives something, and all are
    /// switched on again: in the end each has what it is to have.
    pub async fn calm(&mut self) {
        for image in 0..IMAGES.len() {
            self.tag(image, Some(100 + u8::try_from(image).unwrap()));
        }
        self.apply(&Act::Policy(Rules::for_all())).await;
        for n in 0..self.machines.len() {
            self.release(n).await;
            self.machines[n].reboot();
            for turns in 0.. {
                assert!(turns < 100, "machine {n} is never done");
                if matches!(self.machines[n].doing, Doing::Over) {
                    break;
                }
                self.world.now += 1;
                self.turn(n, Fate::Fine).await;
                if matches!(self.machines[n].doing, Doing::CheckIn) {
                    // The third attempt was the last, and was lost by that reboot.
                    self.release(n).await;
                }
            }
        }
    }

    /// Every machine has what it is to have, and the record tells how, once.
    pub async fn conclude(&self) {
        for n in 0..self.machines.len() {
            let machine = &self.machines[n];
            let Expected::Deploy { images, .. } = self.expected(n) else { panic!("{n} waits") };
            for (image, there) in images.iter().zip(machine.installed()) {
                assert_eq!(there, Some(image.image), "machine {n}");
            }
            let id = machine.agent.machine.as_ref().unwrap();
            let detail = self.world.controller.machine(id).await.unwrap();
            assert_eq!(detail.summary.state, MachineState::Installed, "machine {n}");
            assert_eq!(self.log(n).await, machine.journal, "machine {n}");
            for run in &detail.runs {
                assert!(run.state.is_over(), "{run:?}");
                let steps = self.world.controller.run(&run.id).await.unwrap().steps;
                let once: BTreeSet<_> =
                    steps.iter().map(|step| format!("{} {:?}", step.attempt, step.step)).collect();
                assert_eq!(once.len(), steps.len(), "{steps:?}");
            }
        }
    }

    /// What came of it, without the names of runs: a call that was repeated takes
    /// one more of them.
    pub async fn story(&self) -> Vec<String> {
        let mut story = Vec::new();
        for machine in &self.machines {
            let id = machine.agent.machine.as_ref().unwrap();
            let detail = self.world.controller.machine(id).await.unwrap();
            story.push(format!("{:?} {:?}", detail.summary.state, detail.summary.labels));
            let runs = detail.runs.iter().map(|run| {
                let others = run.others.len();
                format!("{} {} +{others} {:?} {}", run.rule, run.reference, run.state, run.attempt)
            });
            story.extend(runs);
            let told = machine.journal.iter();
            story.extend(told.map(|told| format!("{} {} {:?}", told.boot, told.seq, told.kind)));
        }
        story
    }

    /// The record of a machine; its numbers have no gaps.
    async fn log(&self, n: usize) -> Vec<Told> {
        let id = self.machines[n].agent.machine.as_ref().unwrap();
        let mut log: Vec<Told> = Vec::new();
        let mut seqs: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let since = u64::try_from(log.len()).unwrap();
            let page = self.world.controller.machine_log(id, since, LIST_MAX, Duration::ZERO).await;
            let page = page.unwrap();
            for (entry, record) in page.entries.iter().zip(since + 1..) {
                assert_eq!(entry.record, record);
                let seq = seqs.entry(entry.boot.clone()).or_default();
                *seq += 1;
                assert_eq!(entry.seq, *seq, "{entry:?}");
                let (boot, run) = (entry.boot.clone(), entry.run.clone().unwrap());
                log.push(Told { boot, seq: entry.seq, run, kind: entry.kind.clone() });
            }
            if page.entries.is_empty() {
                return log;
            }
        }
    }
}

/// Takes a call so many polls far, and drops it.
async fn broken_off<T>(call: impl Future<Output = T>, polls: usize) {
    let mut call = pin!(call);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(call.as_mut().poll(context).is_ready())
        });
        if polled.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}
