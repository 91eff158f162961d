//! What a machine is: its inventory, and the facts that policy matches on.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, Receipt, ReceiptState};

/// Everything that an agent can tell of its machine. What a machine cannot
/// tell is `None`, never a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// Manufacturer, model and the numbers written into the machine.
    pub system: System,
    /// Processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks, in the order of their kernel names.
    pub disks: Vec<Disk>,
    /// Network cards, in the order of their kernel names.
    pub nics: Vec<Nic>,
}

/// Manufacturer, model and serial numbers (SMBIOS types 1 to 3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// What they call it.
    pub product: Option<String>,
    /// Serial number of the system.
    pub serial: Option<String>,
    /// SMBIOS UUID as the kernel prints it, lower case.
    pub uuid: Option<String>,
    /// Serial number of the main board.
    pub board_serial: Option<String>,
    /// Serial number of the chassis.
    pub chassis_serial: Option<String>,
    /// Asset tag of the chassis.
    pub asset_tag: Option<String>,
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// As `/proc/cpuinfo` has it: `GenuineIntel`, `AuthenticAMD`.
    pub vendor: Option<String>,
    /// Model name.
    pub model: Option<String>,
    /// Logical processors.
    pub count: Option<u32>,
    /// Architecture: `x86_64`.
    pub arch: Option<String>,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the kernel can use, in bytes.
    pub usable_bytes: Option<u64>,
}

/// Firmware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firmware {
    /// How the machine was booted.
    pub kind: Option<FirmwareKind>,
    /// Who wrote it.
    pub vendor: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Whether Secure Boot was enforced.
    pub secure_boot: Option<bool>,
}

/// How a machine was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareKind {
    /// PC BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// From a newer agent.
    #[serde(other)]
    Unknown,
}

/// One disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Kernel name (`vda`): may change from boot to boot, for people only.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector size in bytes.
    pub sector_bytes: u32,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide id.
    pub wwid: Option<String>,
    /// How it is attached.
    pub bus: Option<Bus>,
    /// Whether it spins.
    pub rotational: Option<bool>,
    /// Whether a person can pull it out.
    pub removable: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// What is installed on it, where we installed it.
    pub receipt: Option<Receipt>,
}

impl Disk {
    /// What tells this disk from every other: its world-wide id or serial number.
    pub fn identity(&self) -> Option<&str> {
        self.wwid.as_deref().or(self.serial.as_deref())
    }

    /// Why this disk does not count as installed with an image; `None` where it does.
    pub fn not_installed(&self, image: Digest) -> Option<String> {
        let Some(receipt) = &self.receipt else {
            return Some("the disk has no receipt".to_owned());
        };
        if receipt.state != ReceiptState::Installed {
            return Some("an earlier installation did not finish".to_owned());
        }
        if receipt.image != image {
            return Some(format!("the disk has {} ({})", receipt.reference, receipt.image.short()));
        }
        if receipt.disk.as_deref() != self.identity() || receipt.disk_bytes != self.size_bytes {
            return Some("the receipt was written to another disk".to_owned());
        }
        None
    }
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// NVM Express.
    Nvme,
    /// SCSI or SAS.
    Scsi,
    /// ATA or SATA.
    Ata,
    /// virtio.
    Virtio,
    /// USB.
    Usb,
    /// SD or eMMC.
    Mmc,
    /// Something else, or from a newer agent.
    #[serde(other)]
    Other,
}

/// One network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// Permanent hardware address, lower case with colons.
    pub mac: String,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Whether it has a link.
    pub link: Option<bool>,
    /// Speed in Mbit/s.
    pub speed_mbit: Option<u32>,
    /// Whether the agent reached the controller through it.
    pub booted: bool,
}

/// The value of one fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FactValue {
    /// Yes or no.
    Bool(bool),
    /// A count, or a size in bytes.
    Number(u64),
    /// A text.
    Text(String),
    /// Several, where a machine has several such things: a match on one is a match.
    List(Vec<FactValue>),
}

impl fmt::Display for FactValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FactValue::Bool(value) => value.fmt(f),
            FactValue::Number(value) => value.fmt(f),
            FactValue::Text(value) => write!(f, "{value:?}"),
            FactValue::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// Facts by path, such as `system.manufacturer`. A path that is not there was
/// not reported.
pub type Facts = BTreeMap<String, FactValue>;

impl Inventory {
    /// The facts of this inventory, by path.
    pub fn facts(&self) -> Facts {
        let mut facts = FactSink(Facts::new());
        let Inventory { system, cpu, memory, firmware, disks, nics } = self;
        facts.text("system.manufacturer", &system.manufacturer);
        facts.text("system.product", &system.product);
        facts.text("system.serial", &system.serial);
        facts.text("system.uuid", &system.uuid);
        facts.text("system.board-serial", &system.board_serial);
        facts.text("system.chassis-serial", &system.chassis_serial);
        facts.text("system.asset-tag", &system.asset_tag);
        facts.text("cpu.vendor", &cpu.vendor);
        facts.text("cpu.model", &cpu.model);
        facts.number("cpu.count", cpu.count.map(u64::from));
        facts.text("cpu.arch", &cpu.arch);
        facts.number("memory.usable", memory.usable_bytes);
        facts.word("firmware.kind", firmware.kind);
        facts.text("firmware.vendor", &firmware.vendor);
        facts.text("firmware.version", &firmware.version);
        facts.put("firmware.secure-boot", firmware.secure_boot.map(FactValue::Bool));
        facts.number("disk.count", Some(disks.len() as u64));
        facts.list("disk.size", disks.iter().map(|d| Some(FactValue::Number(d.size_bytes))));
        facts.list(
            "disk.sector",
            disks.iter().map(|d| Some(FactValue::Number(d.sector_bytes.into()))),
        );
        facts.list("disk.model", disks.iter().map(|d| d.model.clone().map(FactValue::Text)));
        facts.list("disk.serial", disks.iter().map(|d| d.serial.clone().map(FactValue::Text)));
        facts.list("disk.wwid", disks.iter().map(|d| d.wwid.clone().map(FactValue::Text)));
        facts.list("disk.bus", disks.iter().map(|d| word(d.bus)));
        facts.list("disk.rotational", disks.iter().map(|d| d.rotational.map(FactValue::Bool)));
        facts.number("nic.count", Some(nics.len() as u64));
        facts.list("nic.mac", nics.iter().map(|n| Some(FactValue::Text(n.mac.clone()))));
        facts.list("nic.driver", nics.iter().map(|n| n.driver.clone().map(FactValue::Text)));
        facts.list(
            "nic.speed-mbit",
            nics.iter().map(|n| n.speed_mbit.map(|s| FactValue::Number(s.into()))),
        );
        facts.0
    }
}

struct FactSink(Facts);

impl FactSink {
    fn put(&mut self, path: &str, value: Option<FactValue>) {
        if let Some(value) = value {
            self.0.insert(path.to_owned(), value);
        }
    }

    fn text(&mut self, path: &str, value: &Option<String>) {
        self.put(path, value.clone().map(FactValue::Text));
    }

    fn number(&mut self, path: &str, value: Option<u64>) {
        self.put(path, value.map(FactValue::Number));
    }

    fn word(&mut self, path: &str, value: Option<impl Serialize>) {
        self.put(path, word(value));
    }

    fn list(&mut self, path: &str, values: impl Iterator<Item = Option<FactValue>>) {
        let values: Vec<_> = values.flatten().collect();
        if !values.is_empty() {
            self.0.insert(path.to_owned(), FactValue::List(values));
        }
    }
}

/// The word that a unit enum has on the wire.
fn word(value: Option<impl Serialize>) -> Option<FactValue> {
    match serde_json::to_value(value?) {
        Ok(serde_json::Value::String(word)) => Some(FactValue::Text(word)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_inventory_reports_only_that_it_has_nothing() {
        let facts = Inventory::default().facts();
        assert_eq!(facts.get("disk.count"), Some(&FactValue::Number(0)));
        assert_eq!(facts.get("system.manufacturer"), None);
        assert_eq!(facts.get("disk.size"), None);
    }

    #[test]
    fn several_disks_make_lists_and_words_are_those_of_the_wire() {
        let disk = |size_bytes, bus| Disk { size_bytes, bus: Some(bus), ..Disk::default() };
        let inventory = Inventory {
            disks: vec![disk(1, Bus::Nvme), disk(2, Bus::Usb)],
            firmware: Firmware { kind: Some(FirmwareKind::Uefi), ..Firmware::default() },
            ..Inventory::default()
        };
        let facts = inventory.facts();
        assert_eq!(facts["disk.size"].to_string(), "[1, 2]");
        assert_eq!(facts["disk.bus"].to_string(), r#"["nvme", "usb"]"#);
        assert_eq!(facts["firmware.kind"].to_string(), r#""uefi""#);
    }

    #[test]
    fn an_inventory_of_a_newer_agent_is_read() {
        let newer = r#"{"cpu":{"count":2,"dies":1},"disks":[{"name":"x","bus":"cxl"}],"gpu":[]}"#;
        let inventory: Inventory = serde_json::from_str(newer).unwrap();
        assert_eq!(inventory.disks[0].bus, Some(Bus::Other));
    }
}
