//! Finished disks: they boot, they are clean, and they are the same each time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use builder::{Firmware, Outcome, Stage};
use common::{
    build, build_in, cache, can_build, example, first_difference, partition, recipe, tool,
};

const ESP: (u64, u64) = (4096, 131_072);
const ROOT_START: u64 = 135_168;

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

    let look = |request: &str| tool("debugfs", &["-R", request, &root]);
    assert_eq!(look("cat /etc/hostname"), "demo\n");
    assert_eq!(look("cat /etc/machine-id"), "");
    assert!(look("cat /etc/fstab").contains("/ ext4 defaults,x-systemd.growfs 0 1"));
    assert!(look("cat /boot/grub/grub.cfg").contains(&image.boot.cmdline));
    assert!(look("cat /etc/motd").contains("ingot"));
    for (folder, allowed) in [("/var/log", ["README"].as_slice()), ("/tmp", &[]), ("/run", &[])] {
        let files = look(&format!("ls -p {folder}"));
        for file in
            files.lines().filter(|line| !line.split('/').nth(2).unwrap_or("04").starts_with("04"))
        {
            let name = file.split('/').nth(5).unwrap_or_default();
            assert!(allowed.contains(&name), "{folder}: {files}");
        }
    }
    let newest = look("stat /etc/hostname");
    assert!(newest.contains("ctime: 0x67748580:00000000"), "{newest}");
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
    // Another cache, with the base but none of the steps.
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for folder in ["bases", "debs", "lists"] {
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
    assert_eq!((did(&Stage::Base), did(&step), did(&Stage::Disk)), (0, 1, 1));
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
