//! What this machine is, read straight from sysfs and procfs.
//!
//! A file that is missing, empty or holds a manufacturer's placeholder is
//! "not reported", never a failure.

mod disk;
mod nic;
mod system;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use disk::{Candidate, SlotError, disk, disks, receipt_of};
pub use nic::{Link, links, mac_text, nics};
use wire::Inventory;

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

/// Reads the whole inventory. `booted` names the card that reaches the controller.
pub fn read(roots: &Roots, booted: Option<&str>) -> Inventory {
    Inventory {
        system: system::system(&roots.sys),
        cpu: system::cpu(&roots.proc),
        memory: system::memory(&roots.proc),
        firmware: system::firmware(&roots.sys),
        disks: disks(roots).into_iter().map(|candidate| candidate.disk).collect(),
        nics: nics(&roots.sys, booted),
    }
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

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

fn flag(path: &Path) -> Option<bool> {
    number::<u8>(path).map(|value| value != 0)
}

/// A text that was written into the machine, unless it is a placeholder.
fn inscribed(path: &Path) -> Option<String> {
    text(path).filter(|text| !is_placeholder(text))
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
        let mut inventory = read(&roots, None);
        inventory.cpu.arch = None;
        // Only the way it was booted is known: without EFI in sysfs it is a BIOS.
        assert_eq!(inventory.firmware.kind.take(), Some(wire::FirmwareKind::Bios));
        assert_eq!(inventory, Inventory::default());
    }
}
