//! What the kernel says a block device is used for.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The kernel's name of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Its driver.
    pub major: u32,
    /// Its place there.
    pub minor: u32,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What is known about a block device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The disk that it is a partition of.
    pub part_of: Option<String>,
    /// Who uses it or one of its partitions, in words.
    pub in_use: Option<String>,
    /// Model and serial number.
    pub model: Option<String>,
    /// Bytes of one sector as software sees it; nothing for a partition.
    pub sector_bytes: Option<u32>,
}

/// Asks the kernel.
pub fn of(number: Number) -> anyhow::Result<Usage> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let folder = fs::canonicalize(format!("/sys/dev/block/{number}"))
        .with_context(|| format!("the kernel does not list device {number}"))?;
    // Swap may be compiled out of the kernel; then nothing is used for it.
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    usage(&folder, &read("/proc/self/mountinfo")?, &swaps)
}

fn usage(folder: &Path, mountinfo: &str, swaps: &str) -> anyhow::Result<Usage> {
    if folder.join("partition").exists() {
        let whole = folder.parent().and_then(Path::file_name);
        let part_of = whole.map(|name| name.to_string_lossy().into_owned());
        return Ok(Usage { part_of, ..Usage::default() });
    }
    let mut users = Vec::new();
    for part in parts(folder)? {
        let name = part.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let dev = read_word(&part.join("dev")).unwrap_or_default();
        users.extend(mount_points(mountinfo, &dev).map(|at| format!("{name} is mounted at {at}")));
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}")))
        {
            users.push(format!("{name} is swap space"));
        }
        let holders = fs::read_dir(part.join("holders")).into_iter().flatten().flatten();
        users.extend(holders.map(|h| format!("{name} is part of {}", h.file_name().display())));
    }
    let words = [read_word(&folder.join("device/model")), read_word(&folder.join("device/serial"))];
    let model = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let path = folder.join("queue/logical_block_size");
    let sector_bytes = read_word(&path)
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("cannot read the size of a sector in {}", path.display()))?;
    Ok(Usage {
        sector_bytes: Some(sector_bytes),
        part_of: None,
        in_use: (!users.is_empty()).then(|| users.join(", ")),
        model: (!model.is_empty()).then_some(model),
    })
}

/// The disk's own folder and those of its partitions.
fn parts(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut parts = vec![folder.to_owned()];
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.join("partition").exists() {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

/// Where the device `MAJOR:MINOR` is mounted (proc(5): third and fifth field).
fn mount_points<'a>(mountinfo: &'a str, dev: &'a str) -> impl Iterator<Item = &'a str> {
    mountinfo.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        (number == dev).then(|| fields.nth(1)).flatten()
    })
}

fn read_word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let word = text.trim();
    (!word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
23 22 0:21 / /proc rw - proc proc rw
24 22 8:17 / /media/stick rw - vfat /dev/sdb1 rw
";

    /// A folder as sysfs has it for a disk with one partition.
    fn disk(name: &str, dev: &str, part_dev: &str) -> (tempfile::TempDir, PathBuf) {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join(name);
        let part = disk.join(format!("{name}1"));
        for (folder, dev) in [(&disk, dev), (&part, part_dev)] {
            fs::create_dir_all(folder.join("holders")).unwrap();
            fs::write(folder.join("dev"), format!("{dev}\n")).unwrap();
        }
        fs::write(part.join("partition"), "1\n").unwrap();
        fs::create_dir_all(disk.join("device")).unwrap();
        fs::create_dir(disk.join("queue")).unwrap();
        fs::write(disk.join("queue/logical_block_size"), "4096\n").unwrap();
        fs::write(disk.join("device/model"), "QEMU HARDDISK   \n").unwrap();
        (sys, disk)
    }

    #[test]
    fn a_disk_with_a_mounted_partition_is_in_use() {
        let (_sys, sdb) = disk("sdb", "8:16", "8:17");
        let usage = usage(&sdb, MOUNTS, "").unwrap();
        assert_eq!(usage.in_use.as_deref(), Some("sdb1 is mounted at /media/stick"));
        assert_eq!(usage.model.as_deref(), Some("QEMU HARDDISK"));
        assert_eq!(usage.sector_bytes, Some(4096));
    }

    #[test]
    fn swap_and_volumes_on_top_are_uses() {
        let (_sys, sdc) = disk("sdc", "8:32", "8:33");
        let swaps = "Filename Type Size Used Priority\n/dev/sdc1 partition 1 0 -2\n";
        let swap = usage(&sdc, MOUNTS, swaps).unwrap();
        assert_eq!(swap.in_use.as_deref(), Some("sdc1 is swap space"));
        fs::create_dir(sdc.join("holders/dm-0")).unwrap();
        let held = usage(&sdc, MOUNTS, "").unwrap();
        assert_eq!(held.in_use.as_deref(), Some("sdc is part of dm-0"));
    }

    #[test]
    fn an_idle_disk_is_free_and_a_partition_names_its_disk() {
        let (_sys, sdc) = disk("sdc", "8:32", "8:33");
        assert_eq!(usage(&sdc, MOUNTS, "").unwrap().in_use, None);
        let part = usage(&sdc.join("sdc1"), MOUNTS, "").unwrap();
        assert_eq!(part.part_of.as_deref(), Some("sdc"));
    }
}
