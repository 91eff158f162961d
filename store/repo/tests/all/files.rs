//! Which files differ between two images, on real ext4 file systems.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use store_repo::{Aspect, Change, FileDiff, FilesDiff, Kind, ReadError};

use crate::common::{Lab, MIB, gpt_disk, noise, sparse, text};

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(path: PathBuf, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A tree of files.
fn tree(folder: PathBuf) -> PathBuf {
    write(folder.join("etc/passwd"), "root\n");
    write(folder.join("etc/shadow"), text(1, 200_000));
    write(folder.join("etc/motd"), "welcome\n");
    write(folder.join("bin/tool"), noise(2, 300_000));
    write(folder.join("var/big"), noise(3, 3 << 20));
    write(folder.join("var/old/a"), noise(4, 1000));
    write(folder.join("var/old/b/c"), noise(5, 2000));
    write(folder.join("gone"), "x");
    symlink("etc/motd", folder.join("link")).unwrap();
    folder
}

/// An ext4 file system of 16 MiB with a tree.
fn ext4(tree: &Path, file: PathBuf, more: &[&str]) -> PathBuf {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-d"]).arg(tree).args(more).arg(&file).arg("16M");
    run(&mut command);
    file
}

/// A disk whose second partition is a file system, and whose first one is noise.
fn disk(lab: &Lab, name: &str, seed: u64, filesystem: &Path) -> PathBuf {
    let path = gpt_disk(&lab.path(name), 512, seed);
    let disk = fs::File::options().write(true).open(&path).unwrap();
    disk.write_all_at(&fs::read(filesystem).unwrap(), 9 * MIB).unwrap();
    path
}

async fn diff(lab: &Lab, from: &str, to: &str) -> Result<Vec<FilesDiff>, ReadError> {
    let from = lab.repo.resolve(&from.parse().unwrap()).await.unwrap();
    let to = lab.repo.resolve(&to.parse().unwrap()).await.unwrap();
    lab.repo.diff_files(&lab.repo.diff(&from, &to).await?).await
}

fn summary(files: &[FileDiff]) -> Vec<(&str, Change, &[Aspect])> {
    files.iter().map(|file| (file.path.as_str(), file.change, &file.differs[..])).collect()
}

#[tokio::test]
async fn files_that_came_went_or_changed_are_found() {
    let lab = Lab::new().await;
    let (one, two) = (tree(lab.path("t1")), tree(lab.path("t2")));
    write(two.join("etc/passwd"), "root\nuser\n");
    // One byte at the end, and in the middle; times as they were.
    for (path, at) in [("bin/tool", 299_999), ("var/big", 2 << 20)] {
        let time = fs::metadata(one.join(path)).unwrap().modified().unwrap();
        let file = fs::File::options().read(true).write(true).open(two.join(path)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
        file.set_modified(time).unwrap();
    }
    fs::set_permissions(two.join("etc/shadow"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(one.join("etc/shadow"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::remove_file(two.join("link")).unwrap();
    symlink("etc/passwd", two.join("link")).unwrap();
    fs::remove_file(two.join("gone")).unwrap();
    fs::remove_dir_all(two.join("var/old")).unwrap();
    write(two.join("var/old"), "a file now");
    write(two.join("srv/new/deep"), vec![7; 5000]);
    let old = ext4(&one, lab.path("fs1"), &[]);
    let new = ext4(&two, lab.path("fs2"), &[]);
    run(Command::new("debugfs").args(["-w", "-R", "sif /etc/motd uid 4321"]).arg(&new));
    lab.import(&disk(&lab, "d1", 1, &old), "one").await;
    lab.import(&disk(&lab, "d2", 1, &new), "two").await;

    let found = diff(&lab, "one", "two").await.unwrap();
    let [part] = &found[..] else { panic!("{found:?}") };
    assert_eq!((part.region.as_str(), part.partition), ("partition-2", Some(2)));
    assert_eq!(part.skipped, None);
    use {Aspect::*, Change::*};
    assert_eq!(
        summary(&part.files),
        [
            ("/bin/tool", Changed, &[Content][..]),
            ("/etc/motd", Changed, &[Owner]),
            ("/etc/passwd", Changed, &[Content]),
            ("/etc/shadow", Changed, &[Mode]),
            ("/gone", Removed, &[]),
            ("/link", Changed, &[Target]),
            ("/srv", Added, &[]),
            ("/srv/new", Added, &[]),
            ("/srv/new/deep", Added, &[]),
            ("/var/big", Changed, &[Content]),
            ("/var/old", Changed, &[Kind, Mode]),
            ("/var/old/a", Removed, &[]),
            ("/var/old/b", Removed, &[]),
            ("/var/old/b/c", Removed, &[]),
        ]
    );
    let file = |path: &str| part.files.iter().find(|file| file.path == path).unwrap();
    let sizes = |path: &str| {
        let file = file(path);
        (file.from.as_ref().map(|file| file.bytes), file.to.as_ref().map(|file| file.bytes))
    };
    assert_eq!(sizes("/etc/passwd"), (Some(5), Some(10)));
    assert_eq!(sizes("/gone"), (Some(1), None));
    assert_eq!(sizes("/srv/new/deep"), (None, Some(5000)));
    assert_eq!(sizes("/bin/tool"), (Some(300_000), Some(300_000)));
    let both = |path: &str| {
        let FileDiff { from, to, .. } = file(path).clone();
        (from.unwrap(), to.unwrap())
    };
    let (from, to) = both("/etc/shadow");
    assert_eq!((from.mode.as_str(), to.mode.as_str()), ("0644", "0600"));
    let (from, to) = both("/link");
    assert_eq!(
        (from.target.as_deref(), to.target.as_deref()),
        (Some("etc/motd"), Some("etc/passwd"))
    );
    let (from, to) = both("/var/old");
    assert_eq!((from.kind, to.kind), (store_repo::Kind::Directory, store_repo::Kind::File));
    assert_eq!(both("/etc/motd").1.uid, 4321);
}

#[tokio::test]
async fn files_that_only_moved_do_not_differ() {
    let lab = Lab::new().await;
    let old = ext4(&tree(lab.path("t1")), lab.path("fs1"), &[]);
    // Other identity, other places, other times, another block size.
    let more = ["-N", "2000", "-b", "4096", "-O", "^has_journal", "-L", "other"];
    let new = ext4(&tree(lab.path("t2")), lab.path("fs2"), &more);
    lab.import(&disk(&lab, "d1", 1, &old), "one").await;
    lab.import(&disk(&lab, "d2", 1, &new), "two").await;
    let found = diff(&lab, "one", "two").await.unwrap();
    let [part] = &found[..] else { panic!("{found:?}") };
    assert_eq!((part.skipped.as_deref(), &part.files[..]), (None, &[][..]));
    assert_eq!(diff(&lab, "one", "one").await.unwrap(), []);
}

#[tokio::test]
async fn a_file_system_without_a_partition_is_looked_into_too() {
    let lab = Lab::new().await;
    let (one, two) = (tree(lab.path("t1")), tree(lab.path("t2")));
    write(two.join("new"), "");
    lab.import(&ext4(&one, lab.path("fs1"), &[]), "one").await;
    lab.import(&ext4(&two, lab.path("fs2"), &[]), "two").await;
    let found = diff(&lab, "one", "two").await.unwrap();
    assert_eq!((found[0].region.as_str(), found[0].partition), ("disk", None));
    assert_eq!(summary(&found[0].files), [("/new", Change::Added, &[][..])]);
    assert_eq!(found[0].files[0].to.as_ref().map(|file| file.kind), Some(Kind::File));
}

#[tokio::test]
async fn what_is_no_ext4_is_said_and_the_others_are_compared() {
    let lab = Lab::new().await;
    let (one, two) = (tree(lab.path("t1")), tree(lab.path("t2")));
    write(two.join("new"), "");
    let (old, new) = (ext4(&one, lab.path("fs1"), &[]), ext4(&two, lab.path("fs2"), &[]));
    lab.import(&disk(&lab, "d1", 1, &old), "one").await;
    lab.import(&disk(&lab, "d2", 2, &new), "two").await;
    let found = diff(&lab, "one", "two").await.unwrap();
    let [noise, files] = &found[..] else { panic!("{found:?}") };
    let why = noise.skipped.as_deref().unwrap();
    assert_eq!(why, "in the first image, it is no ext4 file system");
    assert_eq!((noise.partition, files.files.len()), (Some(1), 1));

    // One that says it is ext4, and is not.
    let mut broken = fs::read(&new).unwrap();
    broken[1024 + 0x18..1024 + 0x1c].fill(0xff);
    fs::write(&new, broken).unwrap();
    lab.import(&disk(&lab, "d3", 1, &new), "three").await;
    let found = diff(&lab, "one", "three").await.unwrap();
    let why = found[0].skipped.as_deref().unwrap();
    assert!(why.starts_with("in the second image, its ext4 cannot be read: "), "{why}");
}

#[tokio::test]
async fn damage_in_a_file_system_ends_no_comparison() {
    let lab = Lab::new().await;
    let (one, two) = (tree(lab.path("t1")), tree(lab.path("t2")));
    // Checksums would find it all out at once.
    let more = ["-O", "^metadata_csum"];
    let (old, new) = (ext4(&one, lab.path("fs1"), &more), ext4(&two, lab.path("fs2"), &more));
    lab.import(&old, "old").await;
    let whole = fs::read(&new).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap().min(1 << 20);
    for seed in 0..24 {
        let mut damaged = whole.clone();
        for (index, byte) in noise(seed, 400).into_iter().enumerate() {
            damaged[2048 + (index * 7919 + usize::from(byte) * 251) % (used - 2048)] ^= byte;
        }
        fs::write(&new, damaged).unwrap();
        lab.import(&new, "new").await;
        diff(&lab, "old", "new").await.unwrap();
    }
}

#[tokio::test]
async fn damage_in_the_store_is_a_failure() {
    let lab = Lab::new().await;
    let (one, two) = (tree(lab.path("t1")), tree(lab.path("t2")));
    write(two.join("new"), "");
    lab.import(&ext4(&one, lab.path("fs1"), &[]), "one").await;
    lab.import(&ext4(&two, lab.path("fs2"), &[]), "two").await;
    for pack in lab.files("packs") {
        let len = pack.metadata().unwrap().len();
        let bytes = fs::read(&pack).unwrap();
        let parts: Vec<_> = (0..len).step_by(5000).map(|at| (at, &[0x55; 64][..])).collect();
        // Its table stays as it was.
        let parts: Vec<_> = parts.into_iter().filter(|(at, _)| *at + 20_000 < len).collect();
        let damaged = sparse(&lab.path("damaged"), len, &[(0, &bytes)]);
        let file = fs::File::options().write(true).open(&damaged).unwrap();
        parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at + 16).unwrap());
        fs::copy(&damaged, &pack).unwrap();
    }
    let error = diff(&lab, "one", "two").await.unwrap_err();
    assert!(matches!(error, ReadError::Pack { .. }), "{error:?}");
}
