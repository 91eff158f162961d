//! What a machine is told to do.

use serde::{Deserialize, Serialize};

use crate::fact::{Bus, Disk};
use crate::{Digest, Reference, RunId};

/// The controller's answer to a machine that checked in.
#[expect(clippy::large_enum_variant, reason = "there is one per check-in")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Wait safely, touch nothing, check in again later.
    Hold(HoldOrder),
    /// Run this image: start it where the receipt on the disk says that it is
    /// installed, install it first where not.
    Deploy(DeployOrder),
    /// From a newer controller: hold and say so.
    #[serde(other)]
    Unknown,
}

/// Why a machine waits, in words for the person in front of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldOrder {
    /// What happened and what to do about it; shown on the machine's console.
    pub reason: String,
    /// Seconds until the agent should check in again.
    pub retry_secs: u32,
}

/// One image for one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployOrder {
    /// The run that all events of this order belong to.
    pub run: RunId,
    /// Counts the tries of this run, from 1.
    pub attempt: u32,
    /// The image to run.
    pub image: Digest,
    /// What the policy called it, for people.
    pub reference: Reference,
    /// Which disk to install to.
    #[serde(default)]
    pub disk: DiskChoice,
    /// How to start the OS.
    #[serde(default)]
    pub start: Start,
}

/// Which disk an image goes to. All given criteria must hold, for exactly one
/// disk; removable, mounted, read-only and USB disks are never candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskChoice {
    /// Serial number, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide id, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// Model, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Smallest size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes_min: Option<u64>,
    /// Largest size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes_max: Option<u64>,
}

impl DiskChoice {
    /// Why a disk is not the one to write to, as far as the disk itself tells;
    /// `None` where it fits.
    pub fn objection(&self, disk: &Disk) -> Option<String> {
        let never = [
            (disk.read_only, "it is read-only"),
            (disk.removable, "it is removable"),
            (disk.bus == Some(Bus::Usb), "it is a USB disk"),
        ];
        if let Some((_, why)) = never.into_iter().find(|(applies, _)| *applies) {
            return Some(why.to_owned());
        }
        let texts = [
            ("serial", &self.serial, &disk.serial),
            ("wwid", &self.wwid, &disk.wwid),
            ("model", &self.model, &disk.model),
        ];
        for (what, wanted, has) in texts {
            if wanted.is_some() && wanted != has {
                let wanted = wanted.as_deref().unwrap_or_default();
                return Some(format!("its {what} is not {wanted:?}"));
            }
        }
        let bytes = disk.size_bytes;
        if self.size_bytes_min.is_some_and(|min| bytes < min) {
            return Some("it is too small".to_owned());
        }
        self.size_bytes_max.is_some_and(|max| bytes > max).then(|| "it is too large".to_owned())
    }
}

/// How the installed OS is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Load its kernel from the disk and jump into it, past the firmware.
    #[default]
    Kexec,
    /// Restart the machine; the boot decision then sends it to its disk.
    Reboot,
    /// Switch the machine off, installed.
    PowerOff,
    /// From a newer controller: as `Reboot`.
    #[serde(other)]
    Unknown,
}
