//! What the store says about its images: `show`, `diff`, `du`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{World, disk, end, noise};

fn number(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("{of} is no number"))
}

/// Two images of ext4 file systems without a partition table: `os:1`, and
/// `os:2` with 25 files more and one changed.
fn two_systems() -> World {
    let world = World::new();
    for (name, more) in [("1", 0), ("2", 25)] {
        let tree = world.path(&format!("tree-{name}"));
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/version"), format!("this is version {name}\n")).unwrap();
        fs::write(tree.join("etc/same"), noise(1, 100_000)).unwrap();
        for number in 0..more {
            fs::write(tree.join(format!("file-{number:02}\u{1b}")), vec![b'x'; 2000]).unwrap();
        }
        let image = world.path(&format!("{name}.raw"));
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(&image).arg("8M");
        assert_eq!(end(&mut command).code, 0);
        world.ok(["import", image.to_str().unwrap(), "-t", &format!("os:{name}")]);
    }
    world
}

#[test]
fn show_says_with_whom_an_image_shares_how_much() {
    let world = World::new();
    world.file("disk.raw", disk(1));
    world.ok(["import", "disk.raw", "-t", "web:1"]);
    let alone = world.json(["show", "web:1"]);
    assert_eq!((&alone["shared"], &alone["unique_bytes"]), (&json!([]), &alone["stored_bytes"]));
    assert_eq!(alone["plain_bytes"], 2 << 20);
    assert!(!world.ok(["show", "web:1"]).contains("SHARED WITH"));

    // Twelve others with the first MiB, of which one has two names.
    for other in 0..12 {
        let mut other_disk = disk(1);
        other_disk[2 << 20..].copy_from_slice(&noise(50 + other, 1 << 20));
        world.file("other.raw", other_disk);
        world.ok(["import", "other.raw", "-t", &format!("other:{other}")]);
    }
    world.ok(["tag", "other:0", "other:first"]);
    let shown = world.json(["show", "web:1"]);
    let shared = shown["shared"].as_array().unwrap();
    assert_eq!(shared.len(), 12);
    let two_names = |other: &&Value| other["references"] == json!(["other:0", "other:first"]);
    assert_eq!(shared.iter().filter(two_names).count(), 1);
    for other in shared {
        let (plain, stored) = (number(&other["plain_bytes"]), number(&other["stored_bytes"]));
        assert!(plain > 800 << 10 && plain <= 1 << 20 && stored >= plain, "{other}");
        assert!(number(&other["chunks"]) > 0 && other["image"].is_string());
    }
    let unique = number(&shown["unique_bytes"]);
    assert!(unique > 1 << 20 && unique < number(&shown["stored_bytes"]), "{shown}");
    let said = world.ok(["show", "web:1"]);
    assert!(
        said.contains("compressed 1.0:1") && said.contains("that no other image has"),
        "{said}"
    );
    assert!(said.contains("SHARED WITH") && said.ends_with("\nand 2 more\n"), "{said}");
}

#[test]
fn du_accounts_for_every_byte_of_the_folder() {
    let world = World::new();
    assert!(world.fails(3, ["du"]).contains("there is no store at"));
    for (name, seed) in [("one", 1), ("two", 2)] {
        world.file("disk.raw", disk(seed));
        world.ok(["import", "disk.raw", "-t", name]);
    }
    world.ok(["rm", "two"]);
    let usage = world.json(["du"]);
    let overhead: u64 = usage["overhead"].as_object().unwrap().values().map(number).sum();
    let rest = ["stored_bytes", "spare_bytes", "garbage_bytes"].map(|key| number(&usage[key]));
    let total = number(&usage["total_bytes"]);
    assert_eq!(total, overhead + rest.iter().sum::<u64>());
    // The database keeps files beside it while it is open.
    let records = number(&usage["overhead"]["database_bytes"]);
    let files = world
        .names_below("store")
        .into_iter()
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("store.db"));
    let on_disk: u64 = files.map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(total - records, on_disk);
    assert_eq!(usage["garbage_bytes"], world.json(["gc", "--dry-run"])["freed_bytes"]);
    assert_eq!((&usage["images"], &usage["unnamed"]), (&1.into(), &1.into()));
    assert_eq!(
        (&usage["disk_bytes"], &usage["data_bytes"]),
        (&(3 << 20).into(), &(2 << 20).into())
    );

    let said = world.ok(["du"]);
    assert!(
        said.contains("3.0 MiB, the disks of 1 image; not counted: 1 image without a name"),
        "{said}"
    );
    assert!(said.contains("which `ingot gc` frees"), "{said}");
    world.ok(["gc"]);
    assert_eq!(world.json(["du"])["garbage_bytes"], 0);
    assert!(!world.ok(["du"]).contains("ingot gc"));
}

#[test]
fn diff_says_what_to_fetch_and_which_files_differ() {
    let world = two_systems();
    let diff = world.json(["diff", "os:1", "os:2"]);
    assert_eq!(diff["from"], world.json(["show", "os:1"])["digest"]);
    assert_eq!(diff["to"], world.json(["show", "os:2"])["digest"]);
    let region = &diff["regions"][0];
    assert_eq!((&region["name"], &region["same"]), (&"disk".into(), &false.into()));
    assert_eq!(region["transfer"], diff["transfer"]);
    for key in ["chunks", "plain_bytes", "stored_bytes", "requests", "wire_bytes"] {
        assert!(number(&diff["transfer"][key]) > 0, "{key} in {diff}");
    }
    let files = diff["files"][0]["files"].as_array().unwrap();
    assert_eq!((files.len(), &diff["files"][0]["skipped"]), (26, &Value::Null));
    let version = files.iter().find(|file| file["path"] == "/etc/version").unwrap();
    assert_eq!((&version["change"], &version["differs"]), (&"changed".into(), &json!(["content"])));
    assert_eq!((&version["from"]["bytes"], &version["to"]["kind"]), (&18.into(), &"file".into()));
    let added = files.iter().find(|file| file["path"] == "/file-00\u{1b}").unwrap();
    assert_eq!((&added["from"], &added["to"]["bytes"]), (&Value::Null, &2000.into()));

    let said = world.ok(["diff", "os:1", "os:2"]);
    assert!(said.contains("disk: 25 files added, 0 removed, 1 changed\n"), "{said}");
    assert!(said.contains("~  /etc/version") && said.contains("content of 18 B\n"), "{said}");
    assert!(said.contains("+  /file-00\\u{1b}  1.9 KiB\n"), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains("/etc/same"), "{said}");
    assert!(said.ends_with("\nand 6 more; --json has them all\n"), "{said}");

    assert_eq!(world.json(["diff", "os:1", "os:2", "--no-files"])["files"], Value::Null);
    let said = world.ok(["diff", "os:1", "os:2", "--no-files"]);
    assert!(said.contains("REGION") && !said.contains("version"), "{said}");
}

#[test]
fn diff_of_what_does_not_differ_is_short() {
    let world = World::new();
    world.file("disk.raw", disk(1));
    world.ok(["import", "disk.raw", "-t", "web:1"]);
    world.ok(["tag", "web:1", "web:2"]);
    let said = world.ok(["diff", "web:1", "web:2"]);
    assert!(said.starts_with("web:1 and web:2 are one image: blake3:"), "{said}");
    assert_eq!(said.lines().count(), 1);
    let complaint = world.fails(3, ["diff", "web:1", "web:3"]);
    assert!(complaint.contains("cannot compare web:1 with web:3"), "{complaint}");
    assert!(complaint.contains("there is no image web:3"), "{complaint}");

    // Another disk that has all its chunks, elsewhere.
    let mut moved = disk(1);
    moved.rotate_right(1 << 20);
    world.file("moved.raw", moved);
    world.ok(["import", "moved.raw", "-t", "web:3"]);
    assert_eq!(world.json(["diff", "web:1", "web:3"])["files"], json!([]));
}
