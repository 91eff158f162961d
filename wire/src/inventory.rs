//! What a machine tells of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Receipt, ReceiptState};

mod bounded;

use bounded::at_most;

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
    /// The security chip.
    pub tpm: Tpm,
    /// Disks, in the order of their kernel names.
    #[serde(deserialize_with = "at_most::<{ Inventory::DISKS_MAX }, _, _>")]
    pub disks: Vec<Disk>,
    /// Network cards, in the order of their kernel names.
    #[serde(deserialize_with = "at_most::<{ Inventory::NICS_MAX }, _, _>")]
    pub nics: Vec<Nic>,
    /// Where in the network it is.
    pub network: Network,
    /// What is on the PCI bus, in the order of the places there.
    #[serde(deserialize_with = "at_most::<{ Inventory::DEVICES_MAX }, _, _>")]
    pub pci: Vec<Device>,
    /// What is on USB, in the order of the places there.
    #[serde(deserialize_with = "at_most::<{ Inventory::DEVICES_MAX }, _, _>")]
    pub usb: Vec<Device>,
    /// Why a fact is not reported, by its path. An older agent tells none.
    pub missing: BTreeMap<String, String>,
}

impl Inventory {
    /// Most disks of one machine: more than any enclosure holds.
    pub const DISKS_MAX: usize = 1024;
    /// Most network cards of one machine; each is looked up when it checks in.
    pub const NICS_MAX: usize = 128;
    /// Most devices on one kind of bus.
    pub const DEVICES_MAX: usize = 512;
    /// Most partitions of one disk.
    pub const PARTITIONS_MAX: usize = 32;
    /// Most words for what processors can do.
    pub const FLAGS_MAX: usize = 512;
}

/// Manufacturer, model and serial numbers (SMBIOS types 1 to 3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// What they call it.
    pub product: Option<String>,
    /// The family of products that it belongs to.
    pub family: Option<String>,
    /// Their number for this configuration of it.
    pub sku: Option<String>,
    /// Serial number of the system.
    pub serial: Option<String>,
    /// SMBIOS UUID as the kernel prints it, lower case.
    pub uuid: Option<String>,
    /// What its maker calls the main board.
    pub board_product: Option<String>,
    /// Serial number of the main board.
    pub board_serial: Option<String>,
    /// What kind of chassis: `rack-mount`, `blade`, `laptop` and so on.
    pub chassis_kind: Option<String>,
    /// Serial number of the chassis.
    pub chassis_serial: Option<String>,
    /// Asset tag of the chassis.
    pub asset_tag: Option<String>,
    /// Where in its chassis the main board is: the slot of a blade.
    pub slot: Option<String>,
    /// Serial number of the enclosure that a blade is in.
    pub enclosure_serial: Option<String>,
    /// Whether it is a virtual machine.
    pub is_virtual: Option<bool>,
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// As `/proc/cpuinfo` has it: `GenuineIntel`, `AuthenticAMD`.
    pub vendor: Option<String>,
    /// Model name.
    pub model: Option<String>,
    /// Its family, as a number.
    pub family: Option<u64>,
    /// Its model, as a number.
    pub model_number: Option<u64>,
    /// Its revision.
    pub stepping: Option<u64>,
    /// Logical processors.
    pub count: Option<u32>,
    /// Architecture: `x86_64`.
    pub arch: Option<String>,
    /// What it can do, in the kernel's words: `avx2`, `vmx`.
    #[serde(deserialize_with = "at_most::<{ Inventory::FLAGS_MAX }, _, _>")]
    pub flags: Vec<String>,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the kernel can use, in bytes.
    pub usable_bytes: Option<u64>,
    /// The sum of the modules that are in their slots, in bytes.
    pub fitted_bytes: Option<u64>,
}

/// The security chip (Trusted Platform Module).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tpm {
    /// Whether there is one.
    pub present: Option<bool>,
    /// Of the specification: `1.2` or `2.0`.
    pub version: Option<String>,
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
    /// Physical sector size in bytes.
    pub physical_sector_bytes: Option<u32>,
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
    /// Its partition table: `gpt`, `mbr` or `none`.
    pub table: Option<String>,
    /// Its partitions, in the order of their numbers.
    #[serde(deserialize_with = "at_most::<{ Inventory::PARTITIONS_MAX }, _, _>")]
    pub partitions: Vec<Partition>,
    /// The operating system that is on it.
    pub os: Option<Os>,
}

/// One partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// Its type: a GUID in lower case, or `0x83`.
    pub kind: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// An operating system, as its `os-release` file names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `ID`: `debian`.
    pub id: String,
    /// `VERSION_ID`: `12`.
    pub version: Option<String>,
    /// `PRETTY_NAME`.
    pub name: Option<String>,
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
    /// Its place on its bus: `0000:3b:00.0`.
    pub bus_id: Option<String>,
    /// Whether it has a link.
    pub link: Option<bool>,
    /// Speed in Mbit/s.
    pub speed_mbit: Option<u32>,
    /// Whether the agent reached the controller through it.
    pub booted: bool,
    /// Who is at the other end of its cable.
    pub neighbour: Option<Neighbour>,
}

/// The other end of a cable, as it tells by LLDP (IEEE 802.1AB).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Neighbour {
    /// Which device: mostly the hardware address of a switch.
    pub chassis: String,
    /// Which port of it.
    pub port: String,
    /// What its operators call it.
    pub system: Option<String>,
}

/// Where in the network a machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The subnet of its address: `10.0.2.0/24`.
    pub subnet: Option<String>,
    /// The DHCP relay through which it got that.
    pub relay: Option<String>,
    /// The DHCP server that gave it.
    pub dhcp_server: Option<String>,
}

/// Something on a bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its place there: `0000:3b:00.0`, `1-1.2:1.0`.
    pub place: String,
    /// What it is, as drivers are found by: `pci:v00008086d…`.
    pub modalias: String,
    /// Kernel driver.
    pub driver: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CheckIn;

    #[test]
    fn an_inventory_of_a_newer_agent_is_read() {
        let newer = r#"{"cpu":{"count":2,"dies":1},"disks":[{"name":"x","bus":"cxl"}],"gpu":[]}"#;
        let inventory: Inventory = serde_json::from_str(newer).unwrap();
        assert_eq!(inventory.disks[0].bus, Some(Bus::Other));
    }

    /// As the first version of the agent sent it.
    #[test]
    fn a_check_in_of_an_older_agent_is_read() {
        let older = r#"{"version":1,"boot":"b","agent":"0.1.0","inventory":{
            "system":{"manufacturer":"Acme","product":null,"serial":"S1","uuid":null,
                "board_serial":null,"chassis_serial":null,"asset_tag":null},
            "cpu":{"vendor":"GenuineIntel","model":"Xeon","count":2,"arch":"x86_64"},
            "memory":{"usable_bytes":1024},
            "firmware":{"kind":"uefi","vendor":null,"version":null,"secure_boot":false},
            "disks":[{"name":"vda","size_bytes":4096,"sector_bytes":512,"model":null,
                "serial":"D1","wwid":null,"bus":"virtio","rotational":true,"removable":false,
                "read_only":false,"receipt":null}],
            "nics":[{"name":"eth0","mac":"52:54:00:00:00:01","driver":"virtio_net",
                "link":true,"speed_mbit":null,"booted":true}]}}"#;
        let asked: CheckIn = serde_json::from_str(older).unwrap();
        assert_eq!(asked.inventory.disks[0].serial.as_deref(), Some("D1"));
        assert_eq!((asked.inventory.pci.len(), asked.answers.len()), (0, 0));
        assert_eq!(asked.inventory.facts()["disk.serial"].to_string(), r#"["D1"]"#);
    }

    #[test]
    fn a_longer_list_than_is_believed_is_not_read_to_its_end() {
        let table = [
            ("disks", "{}", Inventory::DISKS_MAX),
            ("nics", "{}", Inventory::NICS_MAX),
            ("pci", "{}", Inventory::DEVICES_MAX),
            ("usb", "{}", Inventory::DEVICES_MAX),
        ];
        for (name, item, max) in table {
            let text = |n: usize| format!(r#"{{"{name}":[{}]}}"#, vec![item; n].join(","));
            assert!(serde_json::from_str::<Inventory>(&text(max)).is_ok(), "{name}");
            // What follows is not even looked at.
            let lie = text(max + 1).replace("]}", ",nonsense");
            let error = serde_json::from_str::<Inventory>(&lie).unwrap_err().to_string();
            let expected = format!("a list of more than {max} is not believed");
            assert!(error.starts_with(&expected), "{name}: {error}");
        }
    }
}
