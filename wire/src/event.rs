//! What happened to a machine, as its agent tells it.

use serde::{Deserialize, Serialize};

use crate::{Digest, RunId};

/// One entry of a machine's log. `(boot, seq)` names it: a repeated event is
/// recorded once, a missing number is a gap that the controller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the events of one boot of the agent, from 1, without gaps.
    pub seq: u64,
    /// Milliseconds since the agent started.
    pub uptime_ms: u64,
    /// The run and attempt it belongs to, once there is an order.
    pub run: Option<RunId>,
    /// Attempt of that run; 0 without a run.
    #[serde(default)]
    pub attempt: u32,
    /// What happened.
    pub kind: EventKind,
}

/// What an [`Event`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A step began.
    StepStarted {
        /// Which.
        step: Step,
    },
    /// A step goes on; at most a few of these a second.
    StepProgress {
        /// Which.
        step: Step,
        /// Bytes of the image dealt with so far.
        done_bytes: u64,
        /// Bytes of the image in all.
        total_bytes: u64,
    },
    /// A step ended.
    StepEnded {
        /// Which.
        step: Step,
        /// How.
        outcome: Outcome,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
        /// Bytes received over the network for it.
        #[serde(default)]
        received_bytes: u64,
        /// Bytes written to the disk for it.
        #[serde(default)]
        written_bytes: u64,
    },
    /// The plan for a disk, before anything is written to it.
    Planned {
        /// The image.
        image: Digest,
        /// The disk, by path and identity, for people.
        disk: String,
        /// Plain bytes of the image that are not holes.
        image_bytes: u64,
        /// Of these, bytes that the disk already holds in place.
        present_bytes: u64,
        /// Stored bytes to fetch.
        fetch_bytes: u64,
        /// Requests to fetch them with.
        requests: u64,
    },
    /// One line that the agent printed.
    Log {
        /// Without the line end.
        line: String,
    },
    /// From a newer agent.
    #[serde(other)]
    Unknown,
}

/// The smallest retryable part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Load drivers, read the hardware.
    Inventory,
    /// Bring up the network.
    Network,
    /// Tell the controller and ask for the order.
    CheckIn,
    /// Choose the disk, read its receipt, plan the transfer.
    Plan,
    /// Fetch chunks and write them.
    Transfer,
    /// Read everything back past the cache and compare.
    Verify,
    /// Write boot-critical regions, partition tables, receipt.
    Seal,
    /// Start the installed OS.
    Start,
    /// Run a recipe's script on what was installed.
    Script,
    /// Read what the script made of the disk, and send to the store what that lacks.
    Capture,
    /// From a newer agent.
    #[serde(other)]
    Unknown,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should.
    Done,
    /// There was nothing to do, and why.
    Skipped {
        /// Why.
        reason: String,
    },
    /// With an error: what happened, to what, what to do next.
    Failed {
        /// The whole chain of causes.
        cause: String,
    },
    /// From a newer agent.
    #[serde(other)]
    Unknown,
}
