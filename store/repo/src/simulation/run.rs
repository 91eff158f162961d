//! The scheduler.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use wire::Digest;

use super::gate::{Event, Op};
use super::oracle::{self, Oracle};
use super::world::{Disks, Outcome, Process, Running, Task, World};
use crate::lease::LEASE_MS;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// Steps in which new tasks begin.
const STEPS: usize = 300;
/// Lines of what happened that a failure shows.
const SHOWN: usize = 120;

/// Two that import and remove, one that reads and checks, one that tells
/// machines where chunks are, two that collect.
const ROLES: usize = 6;
const READER: usize = 2;
const SERVER: usize = 3;

/// What may happen beside the processes' work.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan {
    pub deaths: bool,
    /// The clock jumps, and holders are silent for longer than they are believed.
    pub jumps: bool,
    /// A statement that takes a safeguard away.
    pub sabotage: Option<&'static str>,
    /// Whoever looks whether an object is there finds it.
    pub blind: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Go(usize),
    Start(usize),
    Kill(usize),
    /// Time goes by, and who lives has renewed its leases.
    Tick,
    /// Time goes by, and everybody was silent.
    Silence,
    Forward,
    Back,
}

struct Simulation<'a> {
    plan: Plan,
    disks: &'a Disks,
    world: World,
    oracle: Oracle,
    processes: Vec<Process>,
    /// How often each process gets its turn: some are slow.
    pace: [u64; ROLES],
    /// Leases of the processes that live.
    leases: HashMap<String, usize>,
    /// All leases that there ever were.
    known: HashSet<String>,
    dice: u64,
    /// The step may have changed something.
    changed: bool,
    trace: Vec<String>,
}

/// What happened, and what was wrong.
pub(super) async fn run(seed: u64, plan: Plan, disks: &Disks) -> (Vec<String>, Result<(), String>) {
    let world = World::new(plan.sabotage, plan.blind).await;
    let processes = (0..ROLES).map(|_| Process::default()).collect();
    let mut simulation = Simulation {
        plan,
        disks,
        world,
        oracle: Oracle::default(),
        processes,
        pace: [0; ROLES],
        leases: HashMap::new(),
        known: HashSet::new(),
        dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        changed: true,
        trace: Vec::new(),
    };
    for number in 0..ROLES {
        simulation.pace[number] = [1, 4, 4, 16][simulation.dice(4) as usize];
    }
    let done = simulation.all().await;
    for process in &mut simulation.processes {
        process.kill().await;
    }
    let trace = simulation.trace;
    let shown = || trace[trace.len().saturating_sub(SHOWN)..].join("\n");
    let done = done.map_err(|wrong| format!("{wrong}, after\n{}", shown()));
    (trace, done)
}

impl Simulation<'_> {
    fn dice(&mut self, below: u64) -> u64 {
        let state = self.dice.wrapping_mul(6_364_136_223_846_793_005);
        self.dice = state.wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % below
    }

    async fn all(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.step(true).await?;
        }
        while self.processes.iter().any(|process| process.running.is_some()) {
            self.step(false).await?;
        }
        self.end().await
    }

    /// What can happen next, and how often it shall.
    fn choices(&self, work: bool) -> Vec<(Step, u64)> {
        let locked = self.is_locked();
        let mut choices = Vec::new();
        for (number, process) in self.processes.iter().enumerate() {
            let often = self.pace[number] * 20;
            match &process.parked {
                Some((op, _)) if !locked || process.writes || *op != Op::Records => {
                    choices.push((Step::Go(number), often));
                }
                None if work && !locked => choices.push((Step::Start(number), often)),
                _ => {}
            }
            if self.plan.deaths && work && process.parked.is_some() {
                choices.push((Step::Kill(number), 3));
            }
        }
        if !locked && work {
            choices.push((Step::Tick, 20));
        }
        if !locked && work && self.plan.jumps {
            choices.extend([(Step::Silence, 4), (Step::Forward, 4), (Step::Back, 4)]);
        }
        choices
    }

    fn is_locked(&self) -> bool {
        self.processes.iter().any(|process| process.writes)
    }

    async fn step(&mut self, work: bool) -> Result<(), String> {
        let choices = self.choices(work);
        let mut at = self.dice(choices.iter().map(|(_, often)| often).sum());
        let chosen = choices.iter().find(|(_, often)| match at.checked_sub(*often) {
            Some(left) => {
                at = left;
                false
            }
            None => true,
        });
        self.changed = true;
        match chosen.unwrap().0 {
            Step::Go(number) => self.go(number).await?,
            Step::Start(number) => self.start(number).await?,
            Step::Kill(number) => self.kill(number).await?,
            Step::Tick => self.tick().await,
            Step::Silence => self.jump("silence", 11 * MINUTE),
            Step::Forward => self.jump("a day forward", DAY),
            Step::Back => self.jump("a day back", DAY.wrapping_neg()),
        }
        match self.changed {
            true => self.verify().await,
            false => Ok(()),
        }
    }

    async fn go(&mut self, number: usize) -> Result<(), String> {
        let process = &mut self.processes[number];
        let Some((op, go)) = process.parked.take() else { return Ok(()) };
        let looks = process.writes && matches!(op, Op::Head(_));
        process.writes = false;
        self.changed = matches!(op, Op::Records | Op::Put(_) | Op::Delete(_));
        self.trace.push(format!("{number} {op}"));
        let _ = go.send(());
        self.wait_for(number, looks).await
    }

    async fn start(&mut self, number: usize) -> Result<(), String> {
        let Some(task) = self.task(number) else { return Ok(()) };
        if self.processes[number].repo.is_none() {
            self.processes[number] = self.world.boot(number).await;
        }
        self.trace.push(format!("{number} begins {task:?}"));
        // Somebody may still go by the time that was before a jump.
        let running = self.processes.iter().filter_map(|process| process.running.as_ref());
        let shaken = running.into_iter().any(|running| running.shaken);
        self.processes[number].start(task, self.disks);
        self.shake(number, shaken);
        self.wait_for(number, false).await
    }

    fn task(&mut self, number: usize) -> Option<Task> {
        let names: Vec<(String, Digest)> =
            self.oracle.names.iter().map(|(name, image)| (name.clone(), *image)).collect();
        let any = |roll: u64| names.get(roll as usize % names.len().max(1)).cloned();
        let roll = self.dice(1 << 20);
        match number {
            0 | 1 => {
                let own = format!("p{number}:");
                let own: Vec<_> = names.iter().filter(|(name, _)| name.starts_with(&own)).collect();
                if !own.is_empty() && self.dice(3) == 0 {
                    return Some(Task::Remove { name: own[roll as usize % own.len()].0.clone() });
                }
                let disk = self.dice(self.disks.files.len() as u64) as usize;
                Some(Task::Import { disk, name: format!("p{number}:{}", roll % 2) })
            }
            READER if names.is_empty() || self.dice(4) == 0 => Some(Task::Check),
            READER => any(roll).map(|(_, image)| Task::Read { image }),
            SERVER => any(roll).map(|(_, image)| Task::Tell { image }),
            _ => Some(Task::Collect),
        }
    }

    /// Waits until a process is at the gate again, or its task has ended.
    /// `looks`: it was looking at objects in a transaction.
    async fn wait_for(&mut self, number: usize, looks: bool) -> Result<(), String> {
        let ended = match self.world.events.recv().await {
            Some(Event::Parked { process, op, go }) if process == number => {
                let process = &mut self.processes[number];
                process.writes = writes(&op, looks);
                process.parked = Some((op, go));
                Ok(())
            }
            Some(Event::Done(process)) if process == number => {
                self.changed = true;
                self.done(number).await
            }
            _ => Err(format!("somebody else than {number} did something")),
        };
        if self.changed {
            self.look_at_leases(number).await;
        }
        ended
    }

    async fn done(&mut self, number: usize) -> Result<(), String> {
        let Some(running) = self.processes[number].running.take() else { return Ok(()) };
        let Running { task, handle, outcome, began, excused, absent, .. } = running;
        handle.await.map_err(|error| format!("{task:?} panicked: {error}"))?;
        let Some(outcome) = outcome.lock().unwrap().take() else { return Err("no end".into()) };
        self.trace.push(match &outcome {
            Outcome::Failed(error) => format!("{number} failed: {error}"),
            _ => format!("{number} done"),
        });
        match (&task, outcome) {
            (Task::Import { disk, name }, Outcome::Imported(image)) => {
                if image != self.disks.images[*disk] {
                    return Err(format!("disk {disk} became {image}"));
                }
                self.oracle.names.insert(name.clone(), image);
            }
            (Task::Remove { name }, Outcome::Removed) => drop(self.oracle.names.remove(name)),
            (Task::Read { image }, Outcome::Read(bytes)) => {
                if self.disks.bytes_of(image) != Some(&bytes) {
                    return Err(format!("wrong bytes of {image}"));
                }
            }
            (Task::Check, Outcome::Checked(problems)) => {
                if !excused && !problems.is_empty() {
                    return Err(format!("a check found {problems:?}"));
                }
            }
            (Task::Tell { .. }, Outcome::Told(packs)) if !excused => {
                self.oracle.told.push((packs, self.world.now_ms() + 60 * MINUTE));
            }
            (Task::Tell { .. }, Outcome::Told(_)) => {}
            (Task::Collect, Outcome::Collected | Outcome::Refused) => {}
            (Task::Read { .. } | Task::Tell { .. }, Outcome::Failed(_))
                if absent && !began.load(Ordering::SeqCst) => {}
            (_, Outcome::Failed(_)) if excused => {}
            (task, outcome) => return Err(format!("{task:?} of {number}: {outcome:?}")),
        }
        Ok(())
    }

    async fn kill(&mut self, number: usize) -> Result<(), String> {
        self.trace.push(format!("{number} dies"));
        let task = self.processes[number].running.as_ref().map(|running| running.task.clone());
        self.processes[number].kill().await;
        self.leases.retain(|_, owner| *owner != number);
        // It is as it was or as it was to be, and nobody was told.
        let (name, wanted) = match task {
            Some(Task::Import { disk, name }) => (name, Some(self.disks.images[disk])),
            Some(Task::Remove { name }) => (name, None),
            _ => return Ok(()),
        };
        let records = self.world.observer.records().await.unwrap();
        let row = records.names.iter().find(|row| format!("{}:{}", row.name, row.tag) == name);
        let found = row.map(|row| row.image);
        if found != wanted && found != self.oracle.names.get(&name).copied() {
            return Err(format!("{name} is {found:?}"));
        }
        match found {
            Some(image) => self.oracle.names.insert(name, image),
            None => self.oracle.names.remove(&name),
        };
        Ok(())
    }

    async fn tick(&mut self) {
        self.trace.push("four minutes".to_owned());
        // Whoever has no lease yet, or is telling how long one lasts, stands still.
        let leased: HashSet<usize> = self.leases.values().copied().collect();
        for (number, process) in self.processes.iter_mut().enumerate() {
            let still = number == SERVER || !leased.contains(&number);
            process.running.iter_mut().for_each(|running| running.excused |= still);
        }
        self.world.time.fetch_add(4 * MINUTE, Ordering::SeqCst);
        for (id, owner) in &self.leases {
            if *owner != SERVER && !self.is_idle(*owner) {
                self.world.observer.renew_lease(id, LEASE_MS).await.unwrap();
            }
        }
    }

    fn jump(&mut self, what: &str, by: u64) {
        self.trace.push(what.to_owned());
        self.world.time.fetch_add(by, Ordering::SeqCst);
        (0..ROLES).for_each(|number| self.shake(number, true));
        if what != "silence" {
            self.oracle.told.clear();
        }
    }

    fn shake(&mut self, number: usize, shaken: bool) {
        if let Some(running) = &mut self.processes[number].running {
            running.shaken |= shaken;
            running.excused |= shaken;
        }
    }

    /// Notes whose leases there are, and waits for those that end by being
    /// dropped, once nobody is in their way.
    async fn look_at_leases(&mut self, ran: usize) {
        // Where deletions are sabotaged, nothing is to be waited for.
        for _ in 0..if self.plan.sabotage.is_some() { 3 } else { 10_000 } {
            let all = sqlx::query_scalar("SELECT id FROM leases");
            let ids: Vec<String> = all.fetch_all(self.world.observer.pool()).await.unwrap();
            self.leases.retain(|id, _| ids.contains(id));
            for id in ids {
                self.known.insert(id.clone()).then(|| self.leases.insert(id, ran));
            }
            // The server's last, whatever becomes of it.
            let dropped = |owner: &usize| *owner != SERVER && self.is_idle(*owner);
            if self.is_locked() || !self.leases.values().any(dropped) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn is_idle(&self, number: usize) -> bool {
        self.processes[number].running.is_none()
    }

    async fn verify(&mut self) -> Result<(), String> {
        let records = self.world.observer.records().await.unwrap();
        let mut unsettled = Vec::new();
        for running in self.processes.iter_mut().filter_map(|process| process.running.as_mut()) {
            match &running.task {
                Task::Import { name, .. } | Task::Remove { name } => unsettled.push(name.clone()),
                Task::Read { image } | Task::Tell { image } => {
                    running.absent |= !records.images.iter().any(|row| row.digest == *image);
                }
                _ => {}
            }
        }
        let (objects, now) = (self.world.objects.clone(), self.world.now_ms());
        self.oracle.verify(&objects, &records, &unsettled, now).await
    }

    /// When all leases are over, nothing is left but what names need.
    async fn end(&mut self) -> Result<(), String> {
        self.jump("the end", DAY);
        let process = self.world.boot(ROLES).await;
        let Some(repo) = &process.repo else { return Ok(()) };
        let failed = |error: &dyn std::error::Error| wire::chain(error);
        for _ in 0..2 {
            repo.collect_garbage().await.map_err(|error| failed(&error))?;
            // Whoever was believed longest is not any more.
            self.world.time.fetch_add(3 * 60 * MINUTE, Ordering::SeqCst);
        }
        let report = repo.check(true).await.map_err(|error| failed(&error))?;
        let left = self.world.observer.condemned().await.unwrap();
        let rows = self.world.observer.images().await.unwrap();
        let needed = oracle::needed_blobs(&self.world.objects, &rows).await;
        let blobs = repo.storage.blobs().await.unwrap().len();
        let mut images: Vec<_> = self.oracle.names.values().copied().collect();
        images.sort_unstable();
        images.dedup();
        let problems = (report.problems.len(), report.unneeded_packs, left.len());
        if problems != (0, 0, 0) || blobs != needed.len() || rows.len() != images.len() {
            return Err(format!("at the end there are {blobs} blobs, {left:?} and {report:?}"));
        }
        self.verify().await?;
        let mut process = process;
        for image in images {
            process.start(Task::Read { image }, self.disks);
            process.gate.as_ref().unwrap().free();
            let running = process.running.take().unwrap();
            running.handle.await.map_err(|error| error.to_string())?;
            let outcome = running.outcome.lock().unwrap().take();
            match outcome {
                Some(Outcome::Read(bytes)) if self.disks.bytes_of(&image) == Some(&bytes) => {}
                other => return Err(format!("at the end {image} is {other:?}")),
            }
        }
        process.kill().await;
        Ok(())
    }
}

/// Whether a process that waits before this is in a transaction that writes:
/// deletions, and the looks before an image is recorded, whose blobs come first.
fn writes(op: &Op, looks: bool) -> bool {
    let is = |path: &object_store::path::Path, folder: &str| path.as_ref().starts_with(folder);
    match op {
        Op::Delete(path) => is(path, "packs/") || is(path, "blobs/"),
        Op::Head(path) => looks || is(path, "blobs/"),
        _ => false,
    }
}
