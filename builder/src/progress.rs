//! What a build tells while it runs.

use std::fmt;
use std::time::{Duration, Instant};

use crate::recipe::Firmware;

/// One part of a build that takes time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The root tree that the recipe starts from.
    Base,
    /// A step of the recipe, by name.
    Step(String),
    /// The last touches that make the tree that of an image.
    Seal,
    /// The recipe's check script.
    CheckScript,
    /// The filesystems and the disk.
    Disk,
    /// A boot of the finished disk.
    Boot(Firmware),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Base => f.write_str("base"),
            Stage::Step(name) => write!(f, "step {name}"),
            Stage::Seal => f.write_str("seal"),
            Stage::CheckScript => f.write_str("check script"),
            Stage::Disk => f.write_str("disk"),
            Stage::Boot(firmware) => write!(f, "boot {}", firmware.name()),
        }
    }
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Done,
    /// Its result was in the cache.
    Cached,
    /// It failed; the build's error says why.
    Failed,
}

/// What a build tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stage began.
    Started {
        /// Which.
        stage: Stage,
    },
    /// One line that a stage printed, without the line end.
    Log {
        /// Which.
        stage: Stage,
        /// The line; what was not UTF-8 is replaced.
        line: String,
    },
    /// A stage ended.
    Ended {
        /// Which.
        stage: Stage,
        /// How.
        outcome: Outcome,
        /// How long it took.
        elapsed: Duration,
    },
}

/// Receives the events of a build, in order, on the building thread.
pub type Progress<'a> = &'a dyn Fn(Event);

/// Runs `work` as `stage`: tells its start, the lines that it logs, and its end.
pub(crate) fn staged<T, E>(
    progress: Progress<'_>,
    stage: &Stage,
    work: impl FnOnce(&mut dyn FnMut(&str)) -> Result<(Outcome, T), E>,
) -> Result<T, E> {
    let start = Instant::now();
    progress(Event::Started { stage: stage.clone() });
    let mut log = |line: &str| progress(Event::Log { stage: stage.clone(), line: line.to_owned() });
    let result = work(&mut log);
    let outcome = result.as_ref().map_or(Outcome::Failed, |(outcome, _)| *outcome);
    progress(Event::Ended { stage: stage.clone(), outcome, elapsed: start.elapsed() });
    result.map(|(_, value)| value)
}
