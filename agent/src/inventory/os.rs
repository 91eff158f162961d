//! What is on a disk now: its partition table, and the operating system in it. The
//! file system is read without mounting it; nothing is ever written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ext4_view::Ext4;
use wire::{Disk, Inventory, Os, chain};

use super::{short, table};
use crate::part::Part;

/// Most partitions in which an operating system is looked for.
const TRIED_MAX: usize = 16;
/// Longest `os-release` that is read, in bytes.
const RELEASE_BYTES_MAX: u64 = 64 << 10;
/// Where it is, by os-release(5).
const RELEASES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// Where ext4 has its magic number, and what that is.
const EXT4_MAGIC: (u64, [u8; 2]) = (1024 + 0x38, [0x53, 0xef]);

/// Looks at a disk and notes what is on it; returns why no operating system was found.
pub fn look(disk: &mut Disk, device: &Path) -> Option<String> {
    let failed = |what: &str, error: std::io::Error| Some(format!("{what} failed: {error}"));
    let file = match File::open(device) {
        Ok(file) => file,
        Err(error) => return failed("opening it", error),
    };
    let (kind, placed) = match table::read(&file, disk.size_bytes, disk.sector_bytes) {
        Ok(table) => table,
        Err(error) => return failed("reading its partition table", error),
    };
    disk.table = Some(kind.to_owned());
    let mut parts: Vec<_> = placed.iter().map(|p| (p.start, p.partition.size_bytes)).collect();
    let partitions = placed.into_iter().map(|p| p.partition);
    disk.partitions = partitions.take(Inventory::PARTITIONS_MAX).collect();
    if parts.is_empty() {
        // A disk may be one file system as a whole.
        parts.push((0, disk.size_bytes));
    }
    let mut why = "no ext4 file system is on it, and no other is looked into".to_owned();
    for (start, bytes) in parts.into_iter().take(TRIED_MAX).filter(|part| is_ext4(&file, part.0)) {
        match release(&file, start, bytes) {
            Ok(os) => {
                disk.os = Some(os);
                return None;
            }
            Err(error) => why = error,
        }
    }
    Some(why)
}

fn is_ext4(disk: &File, start: u64) -> bool {
    let (at, magic) = EXT4_MAGIC;
    let mut found = [0; 2];
    let read = start.checked_add(at).map(|at| disk.read_exact_at(&mut found, at));
    matches!(read, Some(Ok(()))) && found == magic
}

fn release(disk: &File, start: u64, bytes: u64) -> Result<Os, String> {
    let disk = disk.try_clone().map_err(|error| error.to_string())?;
    let filesystem =
        Ext4::load(Box::new(Part { disk, start, bytes })).map_err(|error| chain(&error))?;
    for path in RELEASES {
        match filesystem.metadata(path) {
            Ok(found) if found.len() <= RELEASE_BYTES_MAX => {}
            _ => continue,
        }
        let text = filesystem.read(path).map_err(|error| format!("{path}: {}", chain(&error)))?;
        if let Some(os) = parse(&String::from_utf8_lossy(&text)) {
            return Ok(os);
        }
    }
    Err("its file systems have no os-release that names an operating system".to_owned())
}

/// Lines of `NAME=value`, the value in quotes or not.
fn parse(text: &str) -> Option<Os> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        let value = line.strip_prefix('=')?.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| short(value))
    };
    Some(Os { id: value("ID")?, version: value("VERSION_ID"), name: value("PRETTY_NAME") })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=x\nVERSION_ID=\"12\"\n\
                    ID=debian\nID_LIKE=no\n";
        let expected = Os {
            id: "debian".into(),
            version: Some("12".into()),
            name: Some("Debian GNU/Linux 12 (bookworm)".into()),
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("ID='arch'\n").unwrap().id, "arch");
        for text in ["", "ID=\n", "ID\n", "VERSION_ID=3\n", "\0\0"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_os_of_a_disk_is_found_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::write(tree.join("usr/lib/os-release"), "ID=debian\nVERSION_ID=13\n").unwrap();
        std::os::unix::fs::symlink("../usr/lib/os-release", tree.join("etc/os-release")).unwrap();
        let image = folder.path().join("disk");
        fs::write(&image, vec![0; 16 << 20]).unwrap();
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-E", "offset=1048576", "-d"])
            .args([tree.as_os_str(), image.as_os_str()])
            .arg("8M")
            .status()
            .unwrap();
        assert!(made.success());
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        // One PC partition of 8 MiB at 1 MiB.
        let record = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x40, 0, 0];
        file.write_all_at(&record, 446).unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();

        let before = fs::read(&image).unwrap();
        let mut disk = Disk { sector_bytes: 512, size_bytes: 16 << 20, ..Disk::default() };
        assert_eq!(look(&mut disk, &image), None);
        assert_eq!(disk.os.unwrap().version.as_deref(), Some("13"));
        assert_eq!((disk.table.as_deref(), disk.partitions.len()), (Some("mbr"), 1));
        assert!(fs::read(&image).unwrap() == before);
    }

    #[test]
    fn a_disk_without_one_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("disk");
        let why = |content: &[u8]| {
            fs::write(&device, content).unwrap();
            look(&mut Disk { sector_bytes: 512, ..Disk::default() }, &device).unwrap()
        };
        assert_eq!(why(&[0; 4096]), "no ext4 file system is on it, and no other is looked into");
        let mut broken = vec![0; 8192];
        broken[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        assert!(!why(&broken).starts_with("no ext4"), "{}", why(&broken));
        fs::remove_file(&device).unwrap();
        let gone = look(&mut Disk::default(), &device).unwrap();
        assert!(gone.starts_with("opening it failed: "), "{gone}");
    }
}
