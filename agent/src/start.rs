//! Starting what is installed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ext4_view::{Ext4, Ext4Error};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::system::{RebootCommand, reboot};
use store_format::Envelope;

use crate::part::Part;
use crate::sys;

/// Why an installed OS could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The image does not say how.
    #[error("the image does not say which kernel to start: use the start \"reboot\" for it")]
    NoBootSpec,
    /// The disk cannot be read.
    #[error("opening the disk failed")]
    Open(#[source] io::Error),
    /// The filesystem cannot be read.
    #[error("partition {partition} has no ext4 filesystem that can be read")]
    Filesystem {
        /// Number of the partition.
        partition: u32,
        /// Why.
        #[source]
        source: Ext4Error,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read from partition {partition}")]
    File {
        /// Its path.
        path: String,
        /// Number of the partition.
        partition: u32,
        /// Why.
        #[source]
        source: Ext4Error,
    },
    /// There is no memory to hold kernel and initrd.
    #[error("keeping kernel and initrd in memory failed")]
    Memory(#[source] io::Error),
    /// The kernel refused.
    #[error(
        "the running kernel does not take the installed one (is kexec switched off, or the kernel \
         not signed by a known key?)"
    )]
    Kexec(#[source] io::Error),
}

/// Kernel, initrd and command line of an installed OS.
pub struct Os {
    /// The kernel's file.
    pub kernel: Vec<u8>,
    /// The initial ramdisk's file.
    pub initrd: Option<Vec<u8>>,
    /// The command line.
    pub cmdline: String,
}

/// Reads an installed OS from its disk; nothing is mounted, nothing written.
pub fn read(disk: &Path, envelope: &Envelope) -> Result<Os, LoadError> {
    let boot = envelope.boot.as_ref().ok_or(LoadError::NoBootSpec)?;
    let partition = boot.partition;
    let region = envelope.region_of(partition).ok_or(LoadError::NoBootSpec)?;
    let file = std::fs::File::open(disk).map_err(LoadError::Open)?;
    // A grown partition has a larger filesystem than the image had.
    let end = match envelope.grow == Some(partition) {
        true => io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(LoadError::Open)?,
        false => region.start + region.bytes,
    };
    let part = Part { disk: file, start: region.start, bytes: end.saturating_sub(region.start) };
    let filesystem =
        Ext4::load(Box::new(part)).map_err(|source| LoadError::Filesystem { partition, source })?;
    let read = |path: &str| {
        let failed = |source| LoadError::File { path: path.to_owned(), partition, source };
        filesystem.read(path).map_err(failed)
    };
    let initrd = boot.initrd.as_deref().map(read).transpose()?;
    Ok(Os { kernel: read(&boot.kernel)?, initrd, cmdline: boot.cmdline.clone() })
}

/// Hands an OS to the running kernel, for [`Exit::Kexec`].
pub fn load(os: &Os) -> Result<(), LoadError> {
    let file = |name: &str, bytes: &[u8]| -> io::Result<OwnedFd> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(fd);
        io::Write::write_all(&mut file, bytes)?;
        Ok(file.into())
    };
    let kernel = file("kernel", &os.kernel).map_err(LoadError::Memory)?;
    let initrd = os.initrd.as_ref().map(|bytes| file("initrd", bytes)).transpose();
    let initrd = initrd.map_err(LoadError::Memory)?;
    let nul = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let cmdline = CString::new(os.cmdline.as_str()).map_err(nul).map_err(LoadError::Kexec)?;
    let loaded =
        sys::kexec_file_load(kernel.as_fd(), initrd.as_ref().map(|fd| fd.as_fd()), &cmdline);
    loaded.map_err(LoadError::Kexec)
}

/// How to leave this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Into the kernel that was loaded.
    Kexec,
    /// Through the firmware.
    Reboot,
    /// Off.
    PowerOff,
}

/// Leaves; comes back only with an error.
pub fn leave(exit: Exit) -> io::Error {
    rustix::fs::sync();
    let command = match exit {
        Exit::Kexec => RebootCommand::Kexec,
        Exit::Reboot => RebootCommand::Restart,
        Exit::PowerOff => RebootCommand::PowerOff,
    };
    match reboot(command) {
        Ok(()) => io::Error::other("the kernel did not do it"),
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use store_format::{BootSpec, Region, envelope};
    use wire::Digest;

    use super::*;

    const START: u64 = 1 << 20;
    const BYTES: u64 = 8 << 20;

    fn image(kernel: &str, initrd: Option<&str>) -> Envelope {
        let boot = BootSpec {
            partition: 2,
            kernel: kernel.into(),
            initrd: initrd.map(str::to_owned),
            cmdline: "root=x".into(),
        };
        Envelope {
            format: envelope::FORMAT.into(),
            disk_bytes: START + BYTES,
            sector_bytes: 512,
            table: None,
            regions: vec![Region {
                name: "p2".into(),
                start: START,
                bytes: BYTES,
                partition: Some(2),
                digest: Digest([0; 32]),
            }],
            grow: None,
            boot: Some(boot),
            configuration: BTreeMap::new(),
            provenance: BTreeMap::new(),
        }
    }

    #[test]
    fn reads_kernel_and_initrd_through_links_without_a_mount() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("boot")).unwrap();
        std::fs::write(tree.join("boot/vmlinuz-1"), vec![1; 300_000]).unwrap();
        std::fs::write(tree.join("boot/initrd-1"), vec![2; 5000]).unwrap();
        std::os::unix::fs::symlink("boot/vmlinuz-1", tree.join("vmlinuz")).unwrap();
        let disk = folder.path().join("disk");
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-E", "offset=1048576", "-d"])
            .arg(&tree)
            .arg(&disk)
            .arg("8M")
            .status()
            .unwrap();
        assert!(made.success());

        let os = read(&disk, &image("/vmlinuz", Some("/boot/initrd-1"))).unwrap();
        assert!(os.kernel == vec![1; 300_000] && os.initrd == Some(vec![2; 5000]));
        assert_eq!(os.cmdline, "root=x");
        let missing = read(&disk, &image("/boot/vmlinuz-2", None));
        assert!(matches!(missing, Err(LoadError::File { path, .. }) if path == "/boot/vmlinuz-2"));
        std::fs::write(&disk, vec![0; 9 << 20]).unwrap();
        let empty = read(&disk, &image("/vmlinuz", None));
        assert!(matches!(empty, Err(LoadError::Filesystem { partition: 2, .. })));
    }
}
