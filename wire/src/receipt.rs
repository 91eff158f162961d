//! The note on a disk that says what was installed there.
//!
//! Its place and framing on the disk are described in `docs/receipt.md`.

use serde::{Deserialize, Serialize};

use crate::{Digest, MachineId, Reference, RunId};

/// What was installed, or is being installed, on the disk that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Format version; this code writes [`Receipt::VERSION`].
    pub version: u32,
    /// How far the installation came.
    pub state: ReceiptState,
    /// The image.
    pub image: Digest,
    /// What the policy called it.
    pub reference: Reference,
    /// The run that wrote it.
    pub run: RunId,
    /// The machine that it was installed on.
    pub machine: MachineId,
    /// Identity of the disk (wwid or serial), so that a cloned or moved disk
    /// is noticed; absent where the disk has none.
    pub disk: Option<String>,
    /// Size of that disk in bytes.
    pub disk_bytes: u64,
}

impl Receipt {
    /// The version this code writes and the newest it understands.
    pub const VERSION: u32 = 1;
}

/// How far an installation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptState {
    /// Written before the first image byte: the disk is not to be started.
    Installing,
    /// Written last, after every byte was read back and compared.
    Installed,
    /// From a newer agent: not to be started.
    #[serde(other)]
    Unknown,
}
