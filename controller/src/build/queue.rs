//! The builds that are not over: what each is doing, and who waits for it.
//! Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use wire::{Digest, MachineId};

use super::Progress;

/// Most builds that are asked for and not over. Whoever checks in can ask for
/// another one by facts that it makes up.
pub(crate) const OPEN_MAX: usize = 1000;
/// How many of its last lines are kept of a build.
pub(crate) const LINES_MAX: usize = 20;
/// Longest of these lines, in characters.
const LINE_CHARS_MAX: usize = 500;

/// Builds by the keys of their configurations.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// How many builds were asked for.
    asked: u64,
    open: BTreeMap<Digest, Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Its place among those asked for.
    number: u64,
    /// When it began, once it has.
    began: Option<Instant>,
    stage: String,
    percent: Option<u64>,
    lines: VecDeque<String>,
    watchers: BTreeSet<MachineId>,
}

/// How a build stands that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// So many builds come first.
    Waiting(usize),
    /// It runs.
    Running {
        /// What it is doing.
        stage: String,
        /// How much of that is done.
        percent: Option<u64>,
        /// How long it runs.
        elapsed: Duration,
    },
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Waiting(0) => f.write_str("its build is about to begin"),
            Status::Waiting(1) => f.write_str("its build waits for another one to end"),
            Status::Waiting(ahead) => write!(f, "its build waits for {ahead} others to end"),
            Status::Running { stage, percent, elapsed } => {
                write!(f, "it is being built: {stage}")?;
                if let Some(percent) = percent {
                    write!(f, ", {percent} %")?;
                }
                write!(f, ", {} s so far", elapsed.as_secs())
            }
        }
    }
}

/// A line as it is shown on consoles.
pub(crate) fn shown(line: &str) -> String {
    let shown = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(LINE_CHARS_MAX).collect()
}

impl Queue {
    /// Adds a build; false where it is there already, or too many are.
    pub fn add(&mut self, key: Digest) -> bool {
        if self.open.contains_key(&key) || self.open.len() >= OPEN_MAX {
            return false;
        }
        self.asked += 1;
        self.open.insert(key, Open { number: self.asked, ..Open::default() });
        true
    }

    /// A build begins.
    pub fn begin(&mut self, key: &Digest, now: Instant) {
        if let Some(build) = self.open.get_mut(key) {
            (build.began, build.stage) = (Some(now), "starting".to_owned());
        }
    }

    /// A build tells something.
    pub fn told(&mut self, key: &Digest, progress: Progress) {
        let Some(build) = self.open.get_mut(key) else { return };
        match progress {
            Progress::Stage(stage) => (build.stage, build.percent) = (stage, None),
            Progress::Share { done_bytes, total_bytes } => {
                let share = u128::from(done_bytes) * 100 / u128::from(total_bytes.max(1));
                build.percent = u64::try_from(share.min(100)).ok();
            }
            Progress::Line(line) => {
                if build.lines.len() == LINES_MAX {
                    build.lines.pop_front();
                }
                build.lines.push_back(shown(&line));
            }
        }
    }

    /// A machine waits for these builds, and for no others; which of them are news.
    pub fn watch(&mut self, keys: &[Digest], machine: &MachineId) -> Vec<Digest> {
        let others = self.open.iter_mut().filter(|(other, _)| !keys.contains(other));
        others.for_each(|(_, build)| _ = build.watchers.remove(machine));
        let mut news = |key: &&Digest| {
            let build = self.open.get_mut(*key);
            build.is_some_and(|build| build.watchers.insert(machine.clone()))
        };
        keys.iter().filter(|key| news(key)).copied().collect()
    }

    /// Who waits for a build.
    pub fn watchers(&self, key: &Digest) -> Vec<MachineId> {
        let build = self.open.get(key);
        build.map(|build| build.watchers.iter().cloned().collect()).unwrap_or_default()
    }

    /// The last lines that a build printed.
    pub fn lines(&self, key: &Digest) -> Vec<String> {
        let build = self.open.get(key);
        build.map(|build| build.lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// How a build stands, unless it is over or was never asked for.
    pub fn status(&self, key: &Digest, now: Instant) -> Option<Status> {
        let build = self.open.get(key)?;
        let Some(began) = build.began else {
            let ahead = self.open.values().filter(|other| other.number < build.number);
            return Some(Status::Waiting(ahead.count()));
        };
        let elapsed = now.duration_since(began);
        Some(Status::Running { stage: build.stage.clone(), percent: build.percent, elapsed })
    }

    /// A build is over.
    pub fn remove(&mut self, key: &Digest) {
        self.open.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [Digest; 3] = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32])];

    #[test]
    fn each_build_stands_in_line_once_and_tells_how_far_it_is() {
        let start = Instant::now();
        let mut queue = Queue::default();
        assert!(KEYS.iter().all(|key| queue.add(*key)));
        assert!(!queue.add(KEYS[1]));
        let says = |queue: &Queue, key: usize, secs: u64| {
            let status = queue.status(&KEYS[key], start + Duration::from_secs(secs));
            status.map_or("nothing".to_owned(), |status| status.to_string())
        };
        queue.begin(&KEYS[0], start);
        assert_eq!(says(&queue, 0, 2), "it is being built: starting, 2 s so far");
        assert_eq!(says(&queue, 1, 2), "its build waits for another one to end");
        assert_eq!(says(&queue, 2, 2), "its build waits for 2 others to end");
        queue.told(&KEYS[0], Progress::Stage("storing".into()));
        queue.told(&KEYS[0], Progress::Share { done_bytes: 1, total_bytes: 3 });
        assert_eq!(says(&queue, 0, 61), "it is being built: storing, 33 %, 61 s so far");
        queue.told(&KEYS[0], Progress::Stage("last".into()));
        assert_eq!(says(&queue, 0, 62), "it is being built: last, 62 s so far");
        queue.remove(&KEYS[0]);
        assert_eq!(says(&queue, 0, 9), "nothing");
        assert_eq!(says(&queue, 1, 9), "its build is about to begin");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut queue = Queue::default();
        queue.add(KEYS[0]);
        for number in 0..100 {
            let line = format!("{number}x\u{1b}[2J\r{}", "x".repeat(1000));
            queue.told(&KEYS[0], Progress::Line(line));
        }
        let lines = queue.lines(&KEYS[0]);
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines[0].starts_with("80x") && lines[19].starts_with("99x"));
        assert!(lines.iter().all(|line| line.chars().count() == LINE_CHARS_MAX));
        assert!(lines[0].starts_with("80x [2J x"), "{}", lines[0]);
    }

    #[test]
    fn there_is_an_end_to_what_can_be_asked_for() {
        let mut queue = Queue::default();
        let key = |number: usize| Digest(number.to_le_bytes().repeat(4).try_into().unwrap());
        assert!((0..OPEN_MAX).all(|number| queue.add(key(number))));
        assert!(!queue.add(key(OPEN_MAX)));
        assert_eq!(queue.status(&key(OPEN_MAX), Instant::now()), None);
        queue.remove(&key(7));
        assert!(queue.add(key(OPEN_MAX)));
    }

    #[test]
    fn a_machine_waits_for_what_it_asked_for_last_and_nothing_else() {
        let machine: MachineId = "m-1".parse().unwrap();
        let mut queue = Queue::default();
        queue.add(KEYS[0]);
        queue.add(KEYS[1]);
        assert_eq!(queue.watch(&KEYS[..1], &machine), [KEYS[0]]);
        assert_eq!(queue.watch(&KEYS[..1], &machine), []);
        // Of those asked for, one is not built.
        assert_eq!(queue.watch(&KEYS, &machine), [KEYS[1]]);
        assert_eq!((queue.watchers(&KEYS[0]).len(), queue.watchers(&KEYS[1]).len()), (1, 1));
        assert_eq!(queue.watch(&KEYS[1..], &machine), []);
        assert_eq!((queue.watchers(&KEYS[0]).len(), queue.watchers(&KEYS[1]).len()), (0, 1));
        assert_eq!(queue.watch(&[], &machine), []);
        assert_eq!(queue.watchers(&KEYS[1]), []);
    }
}
