//! What file systems call free is not kept, and everything else is: real ones,
//! made and checked by their own tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use store_repo::{ImportOptions, Imported};

use crate::common::{Lab, MIB, import, noise, options, text};

fn run(program: &str, args: &[&str]) -> Output {
    let done = Command::new(program).args(args).output();
    done.unwrap_or_else(|error| panic!("{program} is not there: {error}"))
}

fn must(program: &str, args: &[&str]) -> String {
    let done = run(program, args);
    let said = [done.stdout, done.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(done.status.success(), "{program} {args:?}: {said:?}");
    said.concat()
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files of many sizes, one with more pieces than an inode can name, folders, links.
fn tree(at: &Path) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let tree = at.join("tree");
    if tree.exists() {
        return tree;
    }
    fs::create_dir_all(tree.join("etc/deep/deeper")).unwrap();
    for number in 0..150_u64 {
        let len = (number * number * 37 % 90_000) as usize;
        fs::write(tree.join(format!("etc/file-{number}")), text(number, len)).unwrap();
    }
    fs::write(tree.join("etc/deep/deeper/large"), noise(1, 3 << 20)).unwrap();
    fs::write(tree.join("etc/deep/zeros-inside"), [noise(2, 5000), vec![0; 300_000]].concat())
        .unwrap();
    let torn = fs::File::create(tree.join("torn")).unwrap();
    for piece in 0..400_u64 {
        torn.write_all_at(&noise(piece, 3000), piece * 16384).unwrap();
    }
    std::os::unix::fs::symlink("etc/file-1", tree.join("short")).unwrap();
    std::os::unix::fs::symlink("etc/".repeat(40), tree.join("long")).unwrap();
    tree
}

/// A file of old bytes: what a partition has that was in use before.
fn used_before(path: &Path, mib: u64) {
    fs::write(path, noise(99, (mib * MIB) as usize)).unwrap();
}

fn ext4(lab: &Lab, args: &[&str]) -> PathBuf {
    let (tree, disk) = (tree(lab.folder.path()), lab.path("disk"));
    used_before(&disk, 24);
    let common = ["-q", "-F", "-E", "nodiscard,lazy_journal_init=1,lazy_itable_init=0", "-d"];
    let args = [&common[..], &[shown(&tree)], args, &[shown(&disk)]].concat();
    must("mke2fs", &args);
    disk
}

/// All files of a file system, by its own tool.
fn files_of(disk: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    must("debugfs", &["-R", &format!("rdump / {}", shown(to)), shown(disk)]);
}

async fn stored(lab: &Lab, disk: &Path, options: ImportOptions) -> (Imported, PathBuf) {
    let imported = import(&lab.repo, disk, options).await.unwrap();
    let back = lab.path("back");
    lab.repo.export(&imported.digest, &back).await.unwrap();
    (imported, back)
}

#[tokio::test]
async fn an_ext4_comes_back_with_its_files_and_without_its_free_blocks() {
    let kinds: &[&[&str]] = &[
        &["-t", "ext4"],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "2048", "-O", "^64bit"],
        &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"],
        &["-t", "ext4", "-O", "bigalloc", "-C", "16384"],
        &["-t", "ext4", "-O", "inline_data", "-I", "512"],
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"],
        &["-t", "ext4", "-O", "sparse_super2", "-g", "2048"],
        &["-t", "ext4", "-O", "^flex_bg", "-g", "2048"],
        &["-t", "ext4", "-O", "^has_journal"],
        &["-t", "ext3"],
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext2", "-r", "0", "-O", "none"],
    ];
    for kind in kinds {
        let lab = Lab::new().await;
        let disk = ext4(&lab, kind);
        let (imported, back) = stored(&lab, &disk, options("a:1")).await;
        let known = &imported.regions[0];
        assert_eq!((known.filesystem.as_deref(), &known.plain), (Some("ext4"), &None), "{kind:?}");
        assert!(known.free_bytes > 4 * MIB, "{kind:?}: {}", known.free_bytes);
        must("e2fsck", &["-f", "-n", shown(&back)]);
        let (old, new) = (lab.path("old-files"), lab.path("new-files"));
        files_of(&disk, &old);
        files_of(&back, &new);
        must("diff", &["-r", "--no-dereference", shown(&old), shown(&new)]);
        // Where it differs, it has zeros.
        let (old, new) = (fs::read(&disk).unwrap(), fs::read(&back).unwrap());
        assert_eq!(old.len(), new.len());
        assert!(old.iter().zip(&new).all(|(old, new)| old == new || *new == 0), "{kind:?}");
        // The same with all that is free, where that is wanted.
        let exact = ImportOptions { exact: true, ..options("a:exact") };
        let (imported, back) = stored(&lab, &disk, exact).await;
        assert_eq!(imported.regions[0].free_bytes, 0);
        assert!(fs::read(&back).unwrap() == fs::read(&disk).unwrap(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_file_system_that_is_not_whole_is_kept_as_it_is() {
    let spoil: &[(&str, &str)] = &[
        ("feature needs_recovery", "journal is to be replayed"),
        ("ssv state 0", "was not unmounted"),
        ("freeb 100 8000", "bitmaps call"),
    ];
    for (command, why) in spoil {
        let lab = Lab::new().await;
        let disk = ext4(&lab, &["-t", "ext4"]);
        must("debugfs", &["-w", "-R", command, shown(&disk)]);
        let (imported, back) = stored(&lab, &disk, options("a:1")).await;
        let known = &imported.regions[0];
        assert!(known.plain.as_ref().is_some_and(|found| found.contains(why)), "{known:?}");
        assert_eq!((&known.filesystem, known.free_bytes), (&None, 0));
        assert!(fs::read(&back).unwrap() == fs::read(&disk).unwrap(), "{command}");
    }
}

#[tokio::test]
async fn a_fat_comes_back_with_its_files_and_without_its_free_clusters() {
    for (bits, mib) in [("12", 4), ("16", 32), ("32", 64)] {
        let lab = Lab::new().await;
        let (tree, disk) = (tree(lab.folder.path()), lab.path("disk"));
        used_before(&disk, mib);
        must("mkfs.vfat", &["-F", bits, shown(&disk)]);
        let files = if bits == "12" { tree.join("etc/file-7") } else { tree.join("etc") };
        must("mcopy", &["-s", "-i", shown(&disk), shown(&files), "::"]);
        must("mcopy", &["-i", shown(&disk), shown(&tree.join("etc/file-9")), "::gone"]);
        must("mcopy", &["-i", shown(&disk), shown(&tree.join("etc/file-11")), "::behind"]);
        must("mdel", &["-i", shown(&disk), "::gone"]);
        let (imported, back) = stored(&lab, &disk, options("a:1")).await;
        let known = &imported.regions[0];
        assert_eq!((known.filesystem.as_deref(), &known.plain), (Some("FAT"), &None));
        assert!(known.free_bytes > MIB, "FAT{bits}: {}", known.free_bytes);
        must("fsck.vfat", &["-n", shown(&back)]);
        let read = |disk: &Path, name: &str| {
            let to = lab.path(name);
            fs::create_dir(&to).unwrap();
            must("mcopy", &["-s", "-n", "-i", shown(disk), "::*", shown(&to)]);
            to
        };
        let (old, new) = (read(&disk, "old"), read(&back, "new"));
        must("diff", &["-r", shown(&old), shown(&new)]);
        must("diff", &["-r", shown(&files), shown(&new.join(files.file_name().unwrap()))]);
    }
}

#[tokio::test]
async fn what_is_neither_is_kept_whole_and_said() {
    let lab = Lab::new().await;
    let disk = lab.path("disk");
    fs::write(&disk, noise(5, 300_000)).unwrap();
    let (imported, back) = stored(&lab, &disk, options("a:1")).await;
    assert_eq!(imported.regions[0].plain.as_deref(), Some("it is neither ext4 nor FAT"));
    assert!(fs::read(&back).unwrap() == fs::read(&disk).unwrap());
}

/// The same files elsewhere on the disk are the same chunks.
#[tokio::test]
async fn files_that_moved_cost_nothing() {
    let lab = Lab::new().await;
    let disk = ext4(&lab, &["-t", "ext4"]);
    let first = lab.import(&disk, "a:1").await;
    fs::write(lab.path("tree/aaa-first"), noise(7, 777_777)).unwrap();
    let disk = ext4(&lab, &["-t", "ext4"]);
    let second = lab.import(&disk, "a:2").await;
    // The new file, folders, inodes, bitmaps.
    assert!(second.new_bytes < 777_777 + 200_000, "{} of {}", second.new_bytes, first.new_bytes);
}
