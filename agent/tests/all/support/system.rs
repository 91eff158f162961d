//! A small system on a disk: partitions, file systems, a shell.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use store_format::BootSpec;
use store_repo::ImportOptions;

/// Bytes of its disk.
pub const BYTES: u64 = 64 << 20;
/// Where partitions are: first byte and length, by number.
pub const PARTITIONS: [(u64, u64); 3] =
    [(1 << 20, 4 << 20), (5 << 20, 40 << 20), (45 << 20, 8 << 20)];
/// Partition with the root.
pub const ROOT: u32 = 2;
/// What is on none of its disks.
const GUIDS: [&str; 3] = [
    "aaaaaaaa-0000-4000-8000-000000000001",
    "aaaaaaaa-0000-4000-8000-000000000002",
    "aaaaaaaa-0000-4000-8000-000000000003",
];

/// Runs a program that must succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A root with a shell and what that needs.
pub fn tree(root: &Path) {
    for folder in ["boot/efi", "bin", "dev", "etc", "proc", "root", "run", "srv", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, root.join("bin/busybox")).expect("busybox of the package busybox");
    for tool in ["sh", "cat", "echo", "grep", "mount", "mkdir", "rm", "setsid", "sleep", "test"] {
        symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    // The libraries that it is linked with, where the loader looks for them.
    for word in run(Command::new("ldd").arg(busybox)).split_whitespace() {
        if let Some(inside) = word.strip_prefix('/') {
            let to = root.join(inside);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(word, to).unwrap();
        }
    }
    symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
    let fstab = format!(
        "PARTUUID={} / ext4 defaults 0 1\nPARTUUID={} /srv ext4 defaults 0 2\n\
         PARTUUID={} /boot/efi vfat umask=0077,nofail 0 0\n",
        GUIDS[1], GUIDS[2], GUIDS[0]
    );
    fs::write(root.join("etc/fstab"), fstab).unwrap();
    fs::write(root.join("vmlinuz"), vec![1; 300_000]).unwrap();
    fs::write(root.join("initrd.img"), vec![2; 5000]).unwrap();
    let mut noise = vec![0; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(root.join("etc/large"), noise).unwrap();
}

/// Writes the disk of the system to a file.
pub fn disk(folder: &Path, to: &Path) {
    let root = folder.join("tree");
    tree(&root);
    fs::File::create(to).unwrap().set_len(BYTES).unwrap();
    let mut table = String::from("label: gpt\n");
    for ((start, bytes), guid) in PARTITIONS.iter().zip(GUIDS) {
        table += &format!("start={}, size={}, uuid={guid}\n", start / 512, bytes / 512);
    }
    let script = folder.join("table");
    fs::write(&script, table).unwrap();
    let script = fs::File::open(script).unwrap();
    run(Command::new("sfdisk").arg("-q").arg(to).stdin(script));
    let fat = ["-F", "12", "--offset", "2048"];
    run(Command::new("mkfs.fat").args(fat).arg(to).arg("4096"));
    // As the builder makes them: the size of a file system is that of its partition.
    for (index, folder) in [(1, Some(&root)), (2, None)] {
        let (start, bytes) = PARTITIONS[index];
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-b", "4096", "-E"]);
        make.arg(format!("offset={start}"));
        if let Some(folder) = folder {
            make.arg("-d").arg(folder);
        }
        run(make.arg(to).arg(format!("{}k", bytes >> 10)));
    }
}

/// What the builder says of its image.
pub fn options() -> ImportOptions {
    let notes = [("recipe", "gpu"), ("key", "the base's"), ("arch", "amd64"), ("fact.old", "1")];
    ImportOptions {
        configuration: notes.map(|(key, value)| (key.into(), value.into())).into(),
        provenance: [("builder".into(), "ingot".into())].into(),
        boot: Some(BootSpec {
            partition: ROOT,
            kernel: "/vmlinuz".into(),
            initrd: Some("/initrd.img".into()),
            cmdline: "root=x".into(),
        }),
        grow: None,
        ..ImportOptions::default()
    }
}

/// Changes an ext4 of a disk that nobody has mounted, by a command of debugfs.
pub fn debugfs(disk: &Path, number: u32, command: &str) -> String {
    let (start, _) = PARTITIONS[number as usize - 1];
    let disk = format!("{}?offset={start}", disk.display());
    run(Command::new("debugfs").args(["-w", "-R", command, &disk]))
}
