//! The agent's conversation with the controller, and where the store's bytes are.
//!
//! All bodies are JSON unless said otherwise. An error is a status of 4xx or
//! 5xx with [`ErrorBody`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Event, Inventory, MachineId, Order, RunId};

/// Version of this conversation; sent by the agent, checked by the controller.
pub const VERSION: u32 = 1;

/// `POST` [`CheckIn`], answered by [`CheckedIn`]. Idempotent: an agent that
/// holds, or lost the answer, checks in again.
pub const CHECK_IN: &str = "/v1/agent/check-in";

/// `POST` [`EventBatch`], answered by [`EventsSeen`].
pub const EVENTS: &str = "/v1/agent/events";

/// `POST` [`Made`], answered by 204 once it is on record. Idempotent.
pub const MADE: &str = "/v1/agent/made";

/// `GET` + `{digest}`: the image's envelope, the bytes that the digest is of.
/// `GET` + `{digest}/table`: its chunk table (`docs/chunk-table.md`).
/// `GET` + `{digest}/locations`: where its chunks are (`docs/locations.md`).
pub const IMAGES: &str = "/v1/images/";

/// `GET` + `{pack}` (64 hex digits of its SHA-256): a pack, with `Range`.
pub const PACKS: &str = "/v1/packs/";

/// What an agent tells the controller when it starts and whenever it asks again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// [`VERSION`].
    pub version: u32,
    /// Random name of this boot of the agent, 32 hex digits.
    pub boot: String,
    /// Version of the agent.
    pub agent: String,
    /// The machine.
    pub inventory: Inventory,
    /// What was answered since the last check-in, by the names of the questions
    /// ([`Order::Ask`]); null where nobody answered in time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<String, Option<String>>,
}

/// The controller's answer to [`CheckIn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedIn {
    /// Who the controller says the machine is.
    pub machine: MachineId,
    /// What it shall do.
    pub order: Order,
}

/// Events of one boot, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBatch {
    /// The machine.
    pub machine: MachineId,
    /// The boot that the events' numbers belong to.
    pub boot: String,
    /// At most [`EventBatch::EVENTS_MAX`], numbered without gaps.
    pub events: Vec<Event>,
}

impl EventBatch {
    /// Most events in one batch.
    pub const EVENTS_MAX: usize = 1000;
}

/// The controller's answer to [`EventBatch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsSeen {
    /// Highest number up to which every event of this boot is durable; the
    /// agent may forget those and sends the rest again.
    pub seq: u64,
}

/// An image that a machine made ([`Order::Make`]) and sent to the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The machine.
    pub machine: MachineId,
    /// The boot of its agent.
    pub boot: String,
    /// The run that made it.
    pub run: RunId,
    /// The attempt of that run.
    pub attempt: u32,
    /// The image.
    pub image: Digest,
}

/// What an error looks like on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened, to what, what to do next.
    pub error: String,
}
