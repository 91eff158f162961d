//! What policy matches on: paths and values.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Disk, Inventory, Nic, ReceiptState};

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
        let Inventory { system, cpu, memory, firmware, tpm, network, .. } = self;
        facts.text("system.manufacturer", &system.manufacturer);
        facts.text("system.product", &system.product);
        facts.text("system.family", &system.family);
        facts.text("system.sku", &system.sku);
        facts.text("system.serial", &system.serial);
        facts.text("system.uuid", &system.uuid);
        facts.text("system.board-product", &system.board_product);
        facts.text("system.board-serial", &system.board_serial);
        facts.text("system.chassis-kind", &system.chassis_kind);
        facts.text("system.chassis-serial", &system.chassis_serial);
        facts.text("system.asset-tag", &system.asset_tag);
        facts.text("system.slot", &system.slot);
        facts.text("system.enclosure-serial", &system.enclosure_serial);
        facts.put("system.virtual", system.is_virtual.map(FactValue::Bool));
        facts.text("cpu.vendor", &cpu.vendor);
        facts.text("cpu.model", &cpu.model);
        facts.number("cpu.family", cpu.family);
        facts.number("cpu.model-number", cpu.model_number);
        facts.number("cpu.stepping", cpu.stepping);
        facts.number("cpu.count", cpu.count.map(u64::from));
        facts.text("cpu.arch", &cpu.arch);
        facts.texts("cpu.flags", cpu.flags.iter().map(Some));
        facts.number("memory.usable", memory.usable_bytes);
        facts.number("memory.fitted", memory.fitted_bytes);
        facts.word("firmware.kind", firmware.kind);
        facts.text("firmware.vendor", &firmware.vendor);
        facts.text("firmware.version", &firmware.version);
        facts.put("firmware.secure-boot", firmware.secure_boot.map(FactValue::Bool));
        facts.put("tpm.present", tpm.present.map(FactValue::Bool));
        facts.text("tpm.version", &tpm.version);
        facts.text("network.subnet", &network.subnet);
        facts.text("network.relay", &network.relay);
        facts.text("network.dhcp-server", &network.dhcp_server);
        facts.disks(&self.disks);
        facts.nics(&self.nics);
        for (name, devices) in [("pci", &self.pci), ("usb", &self.usb)] {
            let modalias = devices.iter().map(|device| Some(&device.modalias));
            facts.texts(&format!("{name}.modalias"), modalias);
        }
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

    fn disks(&mut self, disks: &[Disk]) {
        self.number("disk.count", Some(disks.len() as u64));
        self.numbers("disk.size", disks.iter().map(|d| Some(d.size_bytes)));
        self.numbers("disk.sector", disks.iter().map(|d| Some(d.sector_bytes.into())));
        let physical = disks.iter().map(|d| d.physical_sector_bytes.map(u64::from));
        self.numbers("disk.physical-sector", physical);
        self.texts("disk.model", disks.iter().map(|d| d.model.as_ref()));
        self.texts("disk.serial", disks.iter().map(|d| d.serial.as_ref()));
        self.texts("disk.wwid", disks.iter().map(|d| d.wwid.as_ref()));
        self.list("disk.bus", disks.iter().map(|d| word(d.bus)));
        self.list("disk.rotational", disks.iter().map(|d| d.rotational.map(FactValue::Bool)));
        self.list("disk.removable", disks.iter().map(|d| Some(FactValue::Bool(d.removable))));
        self.texts("disk.table", disks.iter().map(|d| d.table.as_ref()));
        let partitions = disks.iter().flat_map(|d| &d.partitions);
        self.texts("disk.partition-type", partitions.map(|p| Some(&p.kind)));
        self.texts("disk.os", disks.iter().map(|d| d.os.as_ref().map(|os| &os.id)));
        let versions = disks.iter().map(|d| d.os.as_ref()?.version.as_ref());
        self.texts("disk.os-version", versions);
        let receipts = disks.iter().filter_map(|d| d.receipt.as_ref());
        let installed = receipts.filter(|r| r.state == ReceiptState::Installed);
        self.list("disk.image", installed.map(|r| Some(FactValue::Text(r.reference.to_string()))));
    }

    fn nics(&mut self, nics: &[Nic]) {
        self.number("nic.count", Some(nics.len() as u64));
        self.texts("nic.mac", nics.iter().map(|n| Some(&n.mac)));
        self.texts("nic.driver", nics.iter().map(|n| n.driver.as_ref()));
        self.texts("nic.bus-id", nics.iter().map(|n| n.bus_id.as_ref()));
        self.list("nic.link", nics.iter().map(|n| n.link.map(FactValue::Bool)));
        self.numbers("nic.speed-mbit", nics.iter().map(|n| n.speed_mbit.map(u64::from)));
        let neighbours = || nics.iter().filter_map(|n| n.neighbour.as_ref());
        self.texts("lldp.chassis", neighbours().map(|n| Some(&n.chassis)));
        self.texts("lldp.port", neighbours().map(|n| Some(&n.port)));
        self.texts("lldp.system", neighbours().map(|n| n.system.as_ref()));
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

    fn texts<'a>(&mut self, path: &str, values: impl Iterator<Item = Option<&'a String>>) {
        self.list(path, values.map(|text| Some(FactValue::Text(text?.clone()))));
    }

    fn numbers(&mut self, path: &str, values: impl Iterator<Item = Option<u64>>) {
        self.list(path, values.map(|number| Some(FactValue::Number(number?))));
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
    use crate::{Bus, Firmware, FirmwareKind};

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
}
