//! An installed system as a folder: its file systems where it has them, and the
//! kernel's in between.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use store_format::{Envelope, PartitionTable};
use wire::chain;

use super::resolver::{self, Place};
use crate::boot;
use crate::inventory::{Candidate, Roots, partition};

/// What is mounted of a disk, with the modules that the kernel needs for it, in their order:
/// it asks for them by a program that is not here.
const KINDS: [(&str, &[&str]); 2] = [
    ("ext4", &["crypto-crc32c", "ext4"]),
    ("vfat", &["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "vfat"]),
];
/// Tries to get back what is in use, and the wait between two: what ends lets go of its files
/// a moment after it ended.
pub(super) const TRIES: usize = 50;
const WAIT: Duration = Duration::from_millis(100);

/// Why an installed system is no folder.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The image does not say where its root is.
    #[error("the base image does not say which partition its system is on: a script needs one")]
    NoRoot,
    /// The kernel does not show the partition that the image has.
    #[error(
        "the kernel shows no partition {number} of {disk} with {bytes} bytes at {start}: it kept \
         an older partition table"
    )]
    NoPartition {
        /// Kernel name of the disk.
        disk: String,
        /// Number of the partition.
        number: u32,
        /// Its first byte.
        start: u64,
        /// Its length.
        bytes: u64,
    },
    /// A folder to mount on is not there.
    #[error("{path} is no folder of the base image")]
    Folder {
        /// Seen from inside.
        path: String,
    },
    /// A file system was not mounted.
    #[error("mounting {what} on {} failed", at.display())]
    Mount {
        /// What.
        what: String,
        /// Where.
        at: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file system stays mounted.
    #[error("unmounting {} failed", at.display())]
    Unmount {
        /// Where.
        at: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The resolver's file cannot be put.
    #[error("the script cannot be given name servers")]
    Resolver(#[source] io::Error),
}

/// An installed system that is mounted; unmounted when it is dropped.
#[derive(Debug)]
pub struct Root {
    /// Its root.
    pub folder: PathBuf,
    /// Where file systems are, in the order in which they were mounted.
    mounted: Vec<PathBuf>,
}

impl Root {
    /// Mounts what the envelope says of a disk, and what the system's fstab names of it, on a
    /// folder. `say` hears of what is left out.
    pub fn mount(
        roots: &Roots,
        disk: &Candidate,
        envelope: &Envelope,
        folder: &Path,
        say: &dyn Fn(&str),
    ) -> Result<Root, MountError> {
        let number = envelope.boot.as_ref().map(|boot| boot.partition).ok_or(MountError::NoRoot)?;
        let failed = |source| MountError::Mount {
            what: format!("partition {number}"),
            at: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        let mut root = Root { folder, mounted: Vec::new() };
        let device = device_of(roots, disk, envelope, number)?;
        root.add(roots, &device, "/", "ext4")?;
        let fstab = fs::read_to_string(root.folder.join("etc/fstab")).unwrap_or_default();
        for line in lines(&fstab) {
            let left_out = |why: &str| say(&format!("script: {} is not mounted: {why}", line.at));
            let known = KINDS.iter().any(|(kind, _)| *kind == line.kind);
            let Some(number) = named_by(line.device, envelope).filter(|_| known) else {
                left_out(&format!("{} is no ext4 or vfat of the image", line.device));
                continue;
            };
            let device = device_of(roots, disk, envelope, number)?;
            match root.add(roots, &device, line.at, line.kind) {
                Err(error) if line.nofail => left_out(&chain(&error)),
                result => result?,
            }
        }
        root.add_kernel()?;
        Ok(root)
    }

    /// Gives the system these name servers while it is mounted. Nothing of it changes.
    pub fn resolve_with(&mut self, text: &str) -> Result<(), MountError> {
        let failed = MountError::Resolver;
        match resolver::place(&self.folder).map_err(failed)? {
            Place::Nowhere => Ok(()),
            Place::Run(file) => write(&file, text).map_err(failed),
            Place::Over(file) => {
                let ours = self.folder.join("run/ingot/resolv.conf");
                write(&ours, text).map_err(failed)?;
                mount_bind(&ours, &file).map_err(|error| failed(error.into()))?;
                self.mounted.push(file);
                Ok(())
            }
        }
    }

    /// Takes everything away again; what was written is on the disk then.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.unmount_all(TRIES)
    }

    fn unmount_all(&mut self, tries: usize) -> Result<(), MountError> {
        while let Some(at) = self.mounted.last().cloned() {
            let unmounted = patiently(
                tries,
                || unmount(&at, UnmountFlags::empty()),
                |error| *error == Errno::BUSY,
            );
            unmounted.map_err(|error| MountError::Unmount { at, source: error.into() })?;
            self.mounted.pop();
        }
        Ok(())
    }

    /// Mounts a file system of the disk.
    fn add(
        &mut self,
        roots: &Roots,
        device: &Path,
        at: &str,
        kind: &str,
    ) -> Result<(), MountError> {
        need(roots, kind);
        self.put(&device.display().to_string(), at, kind, MountFlags::NOATIME, c"")
    }

    fn add_kernel(&mut self) -> Result<(), MountError> {
        let (suid, dev) = (MountFlags::NOSUID, MountFlags::NODEV);
        let plain = suid | dev | MountFlags::NOEXEC;
        self.put("proc", "/proc", "proc", plain, c"")?;
        self.put("sysfs", "/sys", "sysfs", plain, c"")?;
        // What boots of the machine is not the script's to change: the disk is used up again.
        if self.folder.join("sys/firmware/efi/efivars").exists() {
            let read_only = plain | MountFlags::RDONLY;
            let _ = self.put("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", read_only, c"");
        }
        self.put("devtmpfs", "/dev", "devtmpfs", suid, c"")?;
        for folder in ["pts", "shm"] {
            // Of the kernel's, not of the image. Where it fails, mounting says so.
            let _ = fs::create_dir(self.folder.join("dev").join(folder));
        }
        self.put("devpts", "/dev/pts", "devpts", suid | MountFlags::NOEXEC, c"mode=620")?;
        self.put("tmpfs", "/dev/shm", "tmpfs", suid | dev, c"mode=1777")?;
        self.put("tmpfs", "/run", "tmpfs", suid | dev, c"mode=755")?;
        self.put("tmpfs", "/tmp", "tmpfs", suid | dev, c"mode=1777")
    }

    fn put(
        &mut self,
        what: &str,
        at: &str,
        kind: &str,
        flags: MountFlags,
        data: &std::ffi::CStr,
    ) -> Result<(), MountError> {
        // A link of the image must not lead to a folder that is ours.
        let target = self.folder.join(at.trim_start_matches('/')).canonicalize();
        let inside = target.ok().filter(|path| path.starts_with(&self.folder) && path.is_dir());
        let Some(target) = inside else { return Err(MountError::Folder { path: at.to_owned() }) };
        mount(what, &target, kind, flags, Some(data)).map_err(|error| MountError::Mount {
            what: what.to_owned(),
            at: target.clone(),
            source: error.into(),
        })?;
        self.mounted.push(target);
        Ok(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Whoever wants to know calls `unmount`.
        let _ = self.unmount_all(1);
    }
}

/// Tries again for a while where something is in use.
pub(super) fn patiently<T, E>(
    tries: usize,
    work: impl Fn() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..tries {
        match work() {
            Err(error) if is_busy(&error) => std::thread::sleep(WAIT),
            result => return result,
        }
    }
    work()
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, text)
}

/// Loads what a file system needs, where the kernel does not have it yet.
fn need(roots: &Roots, kind: &str) {
    let known = fs::read_to_string(roots.proc.join("filesystems")).unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(kind)) {
        return;
    }
    let names = KINDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, names)| names);
    if let Some(mut modules) = boot::modules() {
        // What does not load is missed by who mounts.
        names.iter().for_each(|name| drop(modules.load(name)));
    }
}

/// The device of a partition, which lies where the image says.
fn device_of(
    roots: &Roots,
    disk: &Candidate,
    envelope: &Envelope,
    number: u32,
) -> Result<PathBuf, MountError> {
    let region = envelope.region_of(number).ok_or(MountError::NoRoot)?;
    let (start, bytes) = (region.start, region.bytes);
    let name = &disk.disk.name;
    let found =
        partition(roots, name, number).filter(|found| (found.start, found.bytes) == (start, bytes));
    let missing = || MountError::NoPartition { disk: name.clone(), number, start, bytes };
    Ok(found.ok_or_else(missing)?.path)
}

/// A line of an fstab that names a file system of a disk, not the root.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    device: &'a str,
    at: &'a str,
    kind: &'a str,
    /// The system does without it.
    nofail: bool,
}

/// Its lines, those that are mounted on others behind them.
fn lines(fstab: &str) -> Vec<Line<'_>> {
    let mut lines: Vec<_> = fstab.lines().filter_map(line).collect();
    lines.sort_by_key(|line| line.at.matches('/').count());
    lines
}

fn line(line: &str) -> Option<Line<'_>> {
    let mut fields = line.split_whitespace();
    let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
    let of_a_disk = device.contains('=') || device.starts_with("/dev/");
    let counts = of_a_disk && !device.starts_with('#') && at.starts_with('/') && at.len() > 1;
    let nofail = fields.next().is_some_and(|all| all.split(',').any(|one| one == "nofail"));
    counts.then_some(Line { device, at, kind, nofail })
}

/// Which partition of the image `PARTUUID=` means.
fn named_by(device: &str, envelope: &Envelope) -> Option<u32> {
    let guid = device.strip_prefix("PARTUUID=")?;
    let Some(PartitionTable::Gpt { partitions, .. }) = &envelope.table else { return None };
    partitions.iter().find(|partition| partition.guid.eq_ignore_ascii_case(guid)).map(|p| p.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fstab_names_what_is_mounted_beside_the_root_the_outer_before_the_inner() {
        let fstab = "# comment\nPARTUUID=a / ext4 defaults 0 1\n\
                     PARTUUID=c /boot/efi vfat umask=0077,nofail 0 0\n\
                     PARTUUID=b /boot ext4 defaults 0 2\n\
                     tmpfs /tmp tmpfs\nnone swap swap\n/dev/sdb1 none swap sw\n#PARTUUID=d /d ext4\n";
        let found: Vec<_> = lines(fstab).into_iter().map(|l| (l.device, l.at, l.kind)).collect();
        let expected = [("PARTUUID=b", "/boot", "ext4"), ("PARTUUID=c", "/boot/efi", "vfat")];
        assert_eq!(found, expected);
    }
}
