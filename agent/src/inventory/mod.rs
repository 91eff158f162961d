//! What this machine is, read straight from sysfs and procfs.
//!
//! A file that is missing, empty or holds a manufacturer's placeholder is
//! "not reported", never a failure; the inventory says why.

mod device;
mod disk;
mod nic;
mod notes;
mod os;
pub mod smbios;
mod system;
mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use disk::{Candidate, Shown, SlotError, disk, disks, partition, receipt_of};
use nic::nics;
pub use nic::{Link, links, mac_text};
use notes::{NAMED, Notes};
use wire::{Disk, Inventory, Network};

use crate::net::held::Held;
use crate::net::lldp::Heard;

/// Where the kernel's file systems are; elsewhere in tests.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Roots {
        Roots { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }
}

/// What is known of the network besides what the cards are.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// The card that reaches the controller.
    pub card: Option<String>,
    /// What that has its address by: where in the network it is, and name servers.
    pub lease: Held,
    /// Who is at the other ends of the cables.
    pub heard: Heard,
}

/// Reads the whole inventory.
pub fn read(roots: &Roots, reached: &Reached) -> Inventory {
    let mut notes = Notes::default();
    let notes = &mut notes;
    let (cpu, memory) = (system::cpu(roots, notes), system::memory(&roots.proc, notes));
    let mut inventory = Inventory {
        system: system::system(&roots.sys, notes),
        firmware: system::firmware(&roots.sys, notes),
        tpm: system::tpm(&roots.sys, notes),
        disks: looked_at(disks(roots), notes),
        nics: nics(&roots.sys, reached, notes),
        network: network(reached, notes),
        pci: device::devices(&roots.sys, "pci", notes),
        usb: device::devices(&roots.sys, "usb", notes),
        cpu,
        memory,
        missing: BTreeMap::new(),
    };
    inventory.system.is_virtual = notes.take("system.virtual", system::is_virtual(&inventory.cpu));
    system::add_smbios(&roots.sys, &mut inventory, notes);
    inventory.missing = std::mem::take(&mut notes.0);
    inventory
}

/// The disks with what is on them now.
fn looked_at(candidates: Vec<Candidate>, notes: &mut Notes) -> Vec<Disk> {
    let mut no_os = Vec::new();
    let (count, max) = (candidates.len(), Inventory::DISKS_MAX);
    let look = |Candidate { mut disk, path, .. }: Candidate| {
        // A drive may be without a medium, and takes its time to say so.
        let why = match disk.removable {
            true => Some("it is removable".to_owned()),
            false => os::look(&mut disk, &path),
        };
        no_os.extend(why.map(|why| format!("{}: {why}", disk.name)));
        disk
    };
    let disks: Vec<Disk> = candidates.into_iter().take(max).map(look).collect();
    if !no_os.is_empty() {
        no_os.truncate(NAMED);
        notes.add("disk.os", no_os.join("; "));
    }
    if count > max {
        notes.add("disk.count", format!("only {max} of {count} disks are reported"));
    }
    let mut silent = |fact: &str, told: fn(&Disk) -> bool| {
        notes.silent(fact, disks.iter().map(|disk| (disk.name.as_str(), told(disk))));
    };
    silent("disk.model", |disk| disk.model.is_some());
    silent("disk.serial", |disk| disk.serial.is_some());
    silent("disk.wwid", |disk| disk.wwid.is_some());
    silent("disk.physical-sector", |disk| disk.physical_sector_bytes.is_some());
    silent("disk.rotational", |disk| disk.rotational.is_some());
    silent("disk.table", |disk| disk.table.is_some());
    disks
}

fn network(reached: &Reached, notes: &mut Notes) -> Network {
    let network = reached.lease.network();
    let known = |told: &Option<String>, why: &str| told.as_ref().map(drop).ok_or(why.to_owned());
    notes.take("network.subnet", known(&network.subnet, "there is no DHCP lease"));
    notes.take("network.dhcp-server", known(&network.dhcp_server, "there is no DHCP lease"));
    let relay = "the DHCP answer came through no relay, or does not name it";
    notes.take("network.relay", known(&network.relay, relay));
    network
}

/// Most that is read of one file of sysfs or procfs.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The trimmed text of a file; `None` where there is none.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// As [`text`], with the reason where there is none.
fn told(path: &Path) -> Result<String, String> {
    text(path).ok_or_else(|| match File::open(path) {
        Ok(_) => format!("{} is empty", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("{} is not there", path.display())
        }
        Err(error) => format!("reading {} failed: {error}", path.display()),
    })
}

/// Longest text that is reported, in characters: fewer bytes than the controller takes.
const SHORT_CHARS: usize = 240;

/// A text as it is reported: on one line, and not too long.
pub fn short(text: &str) -> String {
    text.chars().take(SHORT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The name that a link in sysfs ends in.
fn link_name(path: &Path) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

pub(crate) fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

pub(crate) fn flag(path: &Path) -> Option<bool> {
    number::<u8>(path).map(|value| value != 0)
}

/// A text that was written into the machine, unless it is a placeholder.
fn inscribed(path: &Path) -> Option<String> {
    told_inscribed(path).ok()
}

/// The same, with the reason where there is none.
fn told_inscribed(path: &Path) -> Result<String, String> {
    let text = short(&told(path)?);
    match is_placeholder(&text) {
        true => Err(format!("its maker left {text:?} there")),
        false => Ok(text),
    }
}

/// Texts that makers leave in place of a value, lower case.
const PLACEHOLDERS: [&str; 17] = [
    "to be filled by o.e.m.",
    "to be filled by oem",
    "default string",
    "default",
    "not specified",
    "not available",
    "not applicable",
    "none",
    "n/a",
    "unknown",
    "undefined",
    "system manufacturer",
    "system product name",
    "system serial number",
    "chassis serial number",
    "base board serial number",
    "no asset tag",
];

fn is_placeholder(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    // "0", "00000000", "FFFF", "........" and UUIDs of one repeated digit say nothing.
    let mut meaning = lower.bytes().filter(|b| !matches!(b, b'-' | b' ' | b'.' | b':' | b'_'));
    let repeated = match meaning.next() {
        None => true,
        Some(first) => matches!(first, b'0' | b'f' | b'x') && meaning.all(|b| b == first),
    };
    repeated || PLACEHOLDERS.contains(&lower.as_str()) || lower == "0123456789"
}

/// Names in a folder, sorted: `sda` before `sdb` before `sdaa`, `eth2` before `eth10`.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_not_reported() {
        for text in [
            "To Be Filled By O.E.M.",
            "Default string",
            "Not Specified",
            "0",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "0123456789",
            "..............",
            "xxxxxxxx",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["QEMU", "PF3ABCDE", "F0", "0A", "4c4c4544-0031-3510-8052-b4c04f4a3232"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }

    #[test]
    fn a_machine_that_tells_nothing_has_an_empty_inventory() {
        let nowhere = PathBuf::from("/nonexistent");
        let roots = Roots { sys: nowhere.clone(), proc: nowhere.clone(), dev: nowhere };
        let mut inventory = read(&roots, &Reached::default());
        inventory.cpu.arch = None;
        let missing = std::mem::take(&mut inventory.missing);
        // Only the way it was booted is known: without EFI in sysfs it is a BIOS.
        assert_eq!(inventory.firmware.kind.take(), Some(wire::FirmwareKind::Bios));
        assert_eq!(inventory, Inventory::default());
        // Every fact of which there is one at most is either reported or explained.
        let reported = inventory.facts();
        for (fact, _) in wire::expr::FACTS {
            let several = ["disk.", "nic.", "lldp."].iter().any(|area| fact.starts_with(area));
            let known =
                reported.contains_key(fact) || ["cpu.arch", "firmware.kind"].contains(&fact);
            assert!(several || known || missing.contains_key(fact), "{fact}: {missing:#?}");
        }
        let serial = "/nonexistent/class/dmi/id/product_serial is not there";
        assert_eq!(missing["system.serial"], serial);
    }
}
