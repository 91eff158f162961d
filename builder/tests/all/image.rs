//! Finished disks: they boot, they are clean, and they are the same each time.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::{
    build, build_in, cache, can_build, example, first_difference, partition, recipe, tool,
};
use builder::{Firmware, Outcome, Stage};

const ESP: (u64, u64) = (4096, 131_072);
const ROOT_START: u64 = 135_168;
/// No file of an image is newer: seconds since 1970 (docs/recipe.md).
const NEWEST: i64 = 0x6774_8580;

/// All files below a folder but links: path in the folder, and when it was changed.
fn walk(folder: &Path) -> Vec<(String, i64)> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            }
            if kind.is_file() {
                let path = entry.path().strip_prefix(folder).unwrap().display().to_string();
                found.push((path, entry.metadata().unwrap().mtime()));
            }
        }
    }
    found
}

#[test]
fn the_demo_boots_by_both_firmwares() {
    if !can_build() {
        return;
    }
    let mut recipe = example("demo.toml");
    recipe.check.boot = vec![Firmware::Bios, Firmware::Uefi];
    let (image, _) = build(&recipe);
    assert_eq!(image.boot.kernel, "/vmlinuz");
    assert!(image.boot.cmdline.contains("console=ttyS0"));
    // It boots from the very bytes that are handed on.
    let (again, told) = build(&recipe);
    assert!(again.cached);
    assert!(told.outcomes().iter().all(|(_, outcome)| *outcome == Outcome::Cached));
}

#[test]
fn the_disk_is_clean_and_tells_nothing_of_its_build() {
    if !can_build() {
        return;
    }
    let recipe = example("demo.toml");
    let (image, _) = build(&recipe);
    let dir = tempfile::tempdir().unwrap();
    let (esp, root) = (dir.path().join("esp.img"), dir.path().join("root.img"));
    partition(&image.path, ESP.0, ESP.1, &esp);
    let sectors = image.disk_bytes / 512 - 2048 - ROOT_START;
    partition(&image.path, ROOT_START, sectors, &root);
    tool("sfdisk", &["--verify", &image.path.to_string_lossy()]);
    tool("fsck.vfat", &["-n", &esp.to_string_lossy()]);
    let root = root.to_string_lossy();
    tool("e2fsck", &["-fn", &root]);

    let mut slot = [0xff; 65_536];
    let mut disk = fs::File::open(&image.path).unwrap();
    disk.seek(SeekFrom::Start(524_288)).unwrap();
    disk.read_exact(&mut slot).unwrap();
    assert!(slot.iter().all(|&byte| byte == 0), "the receipt's place is taken");

    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    tool("debugfs", &["-R", &format!("rdump / {}", tree.display()), &root]);
    let text = |path: &str| fs::read_to_string(tree.join(path)).unwrap();
    assert_eq!((text("etc/hostname"), text("etc/machine-id")), ("demo\n".into(), String::new()));
    assert!(text("etc/fstab").contains("/ ext4 defaults,x-systemd.growfs 0 1"));
    assert!(text("boot/grub/grub.cfg").contains(&image.boot.cmdline));
    assert!(text("etc/motd").contains("ingot"));
    let files = walk(&tree);
    let left = [
        ("var/log/", ["var/log/README"].as_slice()),
        ("tmp/", &[]),
        ("var/tmp/", &[]),
        ("run/", &[]),
        ("root/", &["root/.bashrc", "root/.profile"]),
        ("var/cache/apt/", &[]),
        ("var/lib/apt/lists/", &[]),
        ("var/lib/dbus/", &[]),
        ("var/lib/systemd/random-seed", &[]),
        ("etc/ssh/ssh_host", &[]),
    ];
    for (path, _) in &files {
        for (folder, allowed) in left {
            assert!(
                !path.starts_with(folder) || allowed.contains(&path.as_str()),
                "{path} is left"
            );
        }
    }
    let newer: Vec<_> = files.iter().filter(|(_, changed)| *changed > NEWEST).collect();
    assert!(newer.is_empty() && files.len() > 5000, "{newer:?} of {}", files.len());
    let look = |request: &str| tool("debugfs", &["-R", request, &root]);
    let newest = look("stat /etc/hostname");
    assert!(newest.contains(&format!("ctime: {NEWEST:#x}:00000000")), "{newest}");
    let enabled = look("stat /etc/systemd/system/multi-user.target.wants/systemd-networkd.service");
    assert!(enabled.contains("Type: symlink"), "{enabled}");
    let blocks = fs::metadata(&image.path).unwrap().blocks() * 512;
    assert!(blocks < image.disk_bytes / 2, "{blocks} bytes are allocated: the disk is not sparse");
}

#[test]
fn two_builds_at_once_do_the_work_once_and_give_the_same_bytes_as_any_other() {
    if !can_build() {
        return;
    }
    let demo = example("demo.toml");
    let (first, _) = build(&demo);
    // Another cache, with the same packages and nothing that was made of them: the
    // base tree is made anew too.
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for folder in ["debs", "lists"] {
        let (from, to) = (cache().join(folder), other.path().join(folder));
        let status = Command::new("cp").arg("-al").args([&from, &to]).status().unwrap();
        assert!(status.success());
    }
    let built: Vec<_> = std::thread::scope(|scope| {
        let builds = [(), ()].map(|()| {
            scope.spawn(|| {
                let (result, told) = build_in(&demo, other.path().to_owned());
                (result.unwrap(), told.outcomes())
            })
        });
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    let step = Stage::Step("demo".to_owned());
    let did = |stage: &Stage| {
        let all = built.iter().flat_map(|(_, outcomes)| outcomes);
        all.filter(|(ended, outcome)| ended == stage && *outcome == Outcome::Done).count()
    };
    assert_eq!((did(&Stage::Base), did(&step), did(&Stage::Disk)), (1, 1, 1));
    for (image, _) in &built {
        assert_eq!(image.provenance, first.provenance);
        assert_eq!(image.boot, first.boot);
        assert_eq!(first_difference(&image.path, &first.path), None);
    }
}

#[test]
fn another_recipe_on_the_same_base_builds_only_what_it_adds() {
    if !can_build() {
        return;
    }
    let demo = example("demo.toml");
    drop(build(&demo));
    let mut web = example("web.toml");
    web.check.boot.clear();
    let (image, told) = build(&web);
    assert_eq!(told.outcomes()[0], (Stage::Base, Outcome::Cached));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root.img");
    partition(&image.path, ROOT_START, image.disk_bytes / 512 - 2048 - ROOT_START, &root);
    let look = |request: &str| tool("debugfs", &["-R", request, &root.to_string_lossy()]);
    assert!(look("cat /var/www/html/index.html").contains("Cast by ingot"));
    assert!(!look("ls /etc/ssh").contains("ssh_host"), "host keys are in the image");
    assert!(
        look("stat /etc/systemd/system/ssh.service.requires/ssh-host-keys.service")
            .contains("Type: symlink")
    );
}

#[test]
fn what_a_recipe_says_about_its_disk_holds() {
    if !can_build() {
        return;
    }
    let rest = "[disk]\nsize = \"700 MiB\"\ncmdline = \"quiet\"\n[check]\nscript = 'test ! -w / && test -e /vmlinuz'\n";
    let (image, _) = build(&recipe("sized", rest));
    assert_eq!(image.disk_bytes, (66 + 700 + 1) << 20);
    assert!(image.boot.cmdline.ends_with(" quiet"));

    let small = recipe("sized", "[disk]\nsize = \"128 MiB\"\n");
    let text = wire::chain(&build_in(&small, cache()).0.unwrap_err());
    assert!(text.contains("is [disk] size large enough?"), "{text}");

    let check = recipe("sized", "[check]\nscript = 'echo not good enough >&2; false'\n");
    let text = wire::chain(&build_in(&check, cache()).0.unwrap_err());
    assert!(text.contains("check script of the recipe failed") && text.contains("not good enough"));
    assert!(Path::new(&image.path).exists());
}
