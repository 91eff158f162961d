//! Disks, as sysfs has them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wire::{Bus, Disk, Receipt, chain};

use super::{Roots, flag, inscribed, names, number, text};
use crate::receipt::{self, ReceiptError};

/// A disk, and what decides whether it may be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What the controller hears of it.
    pub disk: Disk,
    /// Its device node.
    pub path: PathBuf,
    /// Something mounted, swapped to, or stacked on the disk or a partition of it.
    pub used_by: Option<String>,
    /// Whether the device zeroes ranges by itself, faster than by writing them.
    pub zeroes: bool,
    /// Why it is not known whether the disk has a receipt. Such a disk is not written to.
    pub receipt_unknown: Option<String>,
}

/// Every whole disk, in the order of kernel names.
pub fn disks(roots: &Roots) -> Vec<Candidate> {
    let block = roots.sys.join("block");
    let busy = busy_devices(&roots.proc);
    let names = names(&block).into_iter().filter(|name| is_disk(&block.join(name), name));
    let mut found: Vec<_> = names.filter_map(|name| candidate(roots, &name, &busy)).collect();
    for candidate in found.iter_mut().filter(|c| !c.disk.removable) {
        match receipt_of(&candidate.path) {
            Ok(receipt) => candidate.disk.receipt = receipt,
            Err(error) => candidate.receipt_unknown = Some(chain(&error)),
        }
    }
    found
}

/// The disk that has a kernel name now; its receipt is not looked at.
pub fn disk(roots: &Roots, name: &str) -> Option<Candidate> {
    let folder = roots.sys.join("block").join(name);
    let busy = busy_devices(&roots.proc);
    is_disk(&folder, name).then(|| candidate(roots, name, &busy)).flatten()
}

/// A partition as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its device node.
    pub path: PathBuf,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A partition of a disk, by its number.
pub fn partition(roots: &Roots, disk: &str, wanted: u32) -> Option<Shown> {
    let folder = roots.sys.join("block").join(disk);
    names(&folder).into_iter().find_map(|name| {
        let folder = folder.join(&name);
        if number::<u32>(&folder.join("partition"))? != wanted {
            return None;
        }
        // Always in units of 512 bytes, whatever the sector size.
        let bytes = |file: &str| number::<u64>(&folder.join(file))?.checked_mul(512);
        let (start, bytes) = (bytes("start")?, bytes("size")?);
        Some(Shown { path: roots.dev.join(&name), start, bytes })
    })
}

/// Real hardware that holds data: no loops, RAM disks, floppies, CD drives, stacked
/// devices, hidden NVMe paths or boot partitions of eMMC.
fn is_disk(folder: &Path, name: &str) -> bool {
    let other = ["sr", "fd", "loop", "ram", "zram", "dm-", "md", "nbd"];
    let emmc_boot = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    folder.join("device").exists()
        && !other.iter().any(|prefix| name.starts_with(prefix))
        && !emmc_boot
        && flag(&folder.join("hidden")) != Some(true)
}

fn candidate(roots: &Roots, name: &str, busy: &HashSet<String>) -> Option<Candidate> {
    let folder = roots.sys.join("block").join(name);
    // Always in units of 512 bytes, whatever the sector size.
    let size_bytes = number::<u64>(&folder.join("size"))?.checked_mul(512)?;
    let bus = bus(&folder, name);
    let disk = Disk {
        name: name.to_owned(),
        size_bytes,
        sector_bytes: number(&folder.join("queue/logical_block_size")).unwrap_or(512),
        physical_sector_bytes: number(&folder.join("queue/physical_block_size")),
        model: inscribed(&folder.join("device/model"))
            .or_else(|| inscribed(&folder.join("device/name"))),
        serial: serial(&folder),
        wwid: wwid(&folder),
        bus: Some(bus),
        rotational: flag(&folder.join("queue/rotational")),
        removable: flag(&folder.join("removable")) == Some(true),
        read_only: flag(&folder.join("ro")) == Some(true),
        ..Disk::default()
    };
    let zeroes = number::<u64>(&folder.join("queue/write_zeroes_max_bytes")).unwrap_or(0) > 0;
    let used_by = used_by(&folder, name, busy);
    let path = roots.dev.join(name);
    let receipt_unknown = None;
    (size_bytes > 0).then_some(Candidate { disk, path, used_by, zeroes, receipt_unknown })
}

fn serial(folder: &Path) -> Option<String> {
    inscribed(&folder.join("serial"))
        .or_else(|| inscribed(&folder.join("device/serial")))
        .or_else(|| unit_serial(&folder.join("device/vpd_pg80")))
}

/// SCSI "unit serial number" page: four bytes of header, then the text.
fn unit_serial(path: &Path) -> Option<String> {
    let page = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(page.get(4..)?).trim_matches(['\0', ' ']).to_owned();
    let text = super::short(&text);
    (!super::is_placeholder(&text)).then_some(text)
}

fn wwid(folder: &Path) -> Option<String> {
    let text = text(&folder.join("wwid")).or_else(|| text(&folder.join("device/wwid")))?;
    // Parts may be padded with blanks: "t10.ATA     QEMU HARDDISK   …".
    Some(super::short(&text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// By the path of the device through its controllers.
fn bus(folder: &Path, name: &str) -> Bus {
    let path = fs::canonicalize(folder).unwrap_or_default();
    let has = |part: &str| path.to_string_lossy().contains(part);
    if has("/usb") {
        Bus::Usb
    } else if name.starts_with("nvme") {
        Bus::Nvme
    } else if name.starts_with("mmcblk") {
        Bus::Mmc
    } else if name.starts_with("vd") {
        Bus::Virtio
    } else if has("/ata") {
        Bus::Ata
    } else if name.starts_with("sd") {
        Bus::Scsi
    } else {
        Bus::Other
    }
}

/// Device numbers and paths of everything mounted or swapped to.
fn busy_devices(proc: &Path) -> HashSet<String> {
    let mounts = text(&proc.join("self/mountinfo")).unwrap_or_default();
    let swaps = text(&proc.join("swaps")).unwrap_or_default();
    // mountinfo(5): the third field is the device's major:minor.
    let numbers = mounts.lines().filter_map(|line| line.split(' ').nth(2)).map(str::to_owned);
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    numbers.chain(paths.map(str::to_owned)).collect()
}

fn used_by(folder: &Path, name: &str, busy: &HashSet<String>) -> Option<String> {
    let partitions = names(folder).into_iter().filter(|entry| entry.starts_with(name));
    let parts = std::iter::once((folder.to_owned(), name.to_owned()))
        .chain(partitions.map(|partition| (folder.join(&partition), partition)));
    for (folder, name) in parts {
        let number = text(&folder.join("dev"));
        let mounted = number.is_some_and(|number| busy.contains(&number));
        if mounted || busy.contains(&format!("/dev/{name}")) {
            return Some(format!("{name} is mounted"));
        }
        if let Some(holder) = names(&folder.join("holders")).first() {
            return Some(format!("{holder} is built on {name}"));
        }
    }
    None
}

/// Why it is not known whether a disk has a receipt.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The slot cannot be read.
    #[error("reading the receipt's slot failed")]
    Read(#[from] io::Error),
    /// What is in it is for somebody else.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
}

/// The receipt in a disk's slot; `None` where there is no sound one.
pub fn receipt_of(device: &Path) -> Result<Option<Receipt>, SlotError> {
    let mut slot = vec![0; receipt::BYTES];
    match fs::File::open(device)?.read_exact_at(&mut slot, receipt::START) {
        // A disk that ends before the slot has none.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(receipt::found(&slot)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files below a folder, by path and text; a text of `-> x` makes a link to x.
    fn tree(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content.strip_prefix("-> ") {
                Some(to) => {
                    fs::create_dir_all(root.join(to)).unwrap();
                    std::os::unix::fs::symlink(root.join(to), path).unwrap();
                }
                None => fs::write(path, content).unwrap(),
            }
        }
    }

    fn roots(root: &Path) -> Roots {
        Roots { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") }
    }

    const VIRTIO: &str = "sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda";
    const USB: &str =
        "sys/devices/pci0000:00/0000:00:1d.0/usb1/1-1/host2/target2:0:0/2:0:0:0/block/sdb";

    fn machine(root: &Path) {
        tree(
            root,
            &[
                ("sys/block/vda", &format!("-> {VIRTIO}")),
                ("sys/block/sdb", &format!("-> {USB}")),
                ("sys/block/sr0/device/model", "DVD"),
                ("sys/block/loop0/size", "8"),
                ("sys/block/nvme0c0n1/hidden", "1"),
                ("sys/block/nvme0c0n1/size", "8"),
                ("sys/block/nvme0c0n1/device/model", "path"),
            ],
        );
        tree(
            &root.join(VIRTIO),
            &[
                ("size", "8388608\n"),
                ("dev", "254:0\n"),
                ("serial", "disk-1\n"),
                ("queue/logical_block_size", "512\n"),
                ("queue/physical_block_size", "4096\n"),
                ("queue/rotational", "1\n"),
                ("queue/write_zeroes_max_bytes", "1048576\n"),
                ("removable", "0\n"),
                ("ro", "0\n"),
                ("device/vendor", "0x1af4\n"),
                ("vda1/dev", "254:1\n"),
            ],
        );
        tree(
            &root.join(USB),
            &[
                ("size", "16\n"),
                ("removable", "1\n"),
                ("queue/logical_block_size", "4096\n"),
                ("device/model", "Stick\n"),
                ("device/wwid", "t10.ATA     Stick    1\n"),
                ("device/vpd_pg80", "\0\u{1}\0\u{4}  S1\0"),
            ],
        );
    }

    #[test]
    fn tells_disks_from_other_block_devices() {
        let root = tempfile::tempdir().unwrap();
        machine(root.path());
        let found = disks(&roots(root.path()));
        let names: Vec<_> = found.iter().map(|c| c.disk.name.as_str()).collect();
        assert_eq!(names, ["sdb", "vda"]);
        let (stick, virtio) = (&found[0], &found[1]);
        assert_eq!(virtio.disk.size_bytes, 4 << 30);
        assert_eq!(virtio.disk.physical_sector_bytes, Some(4096));
        assert_eq!(virtio.disk.bus, Some(Bus::Virtio));
        assert_eq!(virtio.disk.serial.as_deref(), Some("disk-1"));
        assert_eq!(virtio.disk.rotational, Some(true));
        assert_eq!((virtio.zeroes, stick.zeroes), (true, false));
        assert_eq!(virtio.used_by, None);
        assert_eq!(stick.disk.bus, Some(Bus::Usb));
        assert!(stick.disk.removable);
        assert_eq!(stick.disk.serial.as_deref(), Some("S1"));
        assert_eq!(stick.disk.identity(), Some("t10.ATA Stick 1"));
        assert_eq!(stick.disk.sector_bytes, 4096);
    }

    #[test]
    fn a_slot_that_cannot_be_read_or_understood_is_not_an_empty_one() {
        let root = tempfile::tempdir().unwrap();
        machine(root.path());
        let (dev, roots) = (root.path().join("dev"), roots(root.path()));
        let unknown = || disks(&roots)[1].receipt_unknown.clone();
        // Reading a folder fails, as a disk does that is broken.
        fs::create_dir_all(dev.join("vda")).unwrap();
        assert!(unknown().unwrap().starts_with("reading the receipt's slot failed: "));
        fs::remove_dir(dev.join("vda")).unwrap();
        fs::write(dev.join("vda"), [0; 99]).unwrap();
        assert_eq!(unknown(), None, "too short for a slot");
        let mut disk = vec![0; 1 << 20];
        let at = usize::try_from(receipt::START).unwrap();
        disk[at..at + 9].copy_from_slice(b"INGOTRCP\x02");
        fs::write(dev.join("vda"), disk).unwrap();
        assert!(unknown().unwrap().contains("slot format 2"));
    }

    #[test]
    fn a_disk_is_in_use_when_anything_on_it_is() {
        let root = tempfile::tempdir().unwrap();
        machine(root.path());
        let mounts = "36 35 254:1 / /mnt rw shared:1 - ext4 /dev/vda1 rw\n";
        tree(root.path(), &[("proc/self/mountinfo", mounts)]);
        let used = |roots: &Roots| disks(roots)[1].used_by.clone();
        assert_eq!(used(&roots(root.path())).as_deref(), Some("vda1 is mounted"));
        fs::write(root.path().join("proc/self/mountinfo"), "").unwrap();
        tree(root.path(), &[("proc/swaps", "Filename Type\n/dev/vda partition 1 0 -2\n")]);
        assert_eq!(used(&roots(root.path())).as_deref(), Some("vda is mounted"));
        fs::remove_file(root.path().join("proc/swaps")).unwrap();
        fs::create_dir_all(root.path().join(VIRTIO).join("vda1/holders/dm-0")).unwrap();
        assert_eq!(used(&roots(root.path())).as_deref(), Some("dm-0 is built on vda1"));
    }
}
