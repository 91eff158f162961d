//! Images in and out of a store.

use std::io::Write;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use crate::support::{World, disk, end, exists, noise};

/// A world with one image, `lab/web:1`, made from `disk.raw`.
fn stocked() -> World {
    let world = World::new();
    world.file("disk.raw", disk(1));
    world.ok(["import", "disk.raw", "-t", "lab/web:1"]);
    world
}

#[test]
fn an_image_goes_in_and_comes_out_as_it_was() {
    let world = stocked();
    assert!(world.ok(["ls"]).contains("lab/web:1"));
    world.ok(["export", "lab/web:1", "out.raw"]);
    assert!(std::fs::read(world.path("out.raw")).unwrap() == disk(1));
    let streamed = world.command(["export", "lab/web:1", "-"]).output().unwrap();
    assert!(streamed.status.success() && streamed.stdout == disk(1));
    assert_eq!(world.names("."), ["disk.raw", "out.raw", "store"], "nothing is left beside");
}

#[test]
fn a_stream_makes_the_same_image_as_a_file_and_costs_nothing_new() {
    let world = stocked();
    let mut command = world.command(["import", "-", "-t", "again", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&disk(1)).unwrap();
    let made: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(made["reference"], "again");
    assert_eq!(made["new_bytes"], 0);
    assert_eq!(made["digest"], world.json(["show", "lab/web:1"])["digest"]);
}

#[test]
fn what_json_reports_has_the_documented_shape() {
    let world = stocked();
    let list = world.json(["ls"]);
    let image = &list[0];
    assert_eq!(image["reference"], "lab/web:1");
    assert_eq!(image["disk_bytes"], 3 << 20);
    assert_eq!(image["data_bytes"], 2 << 20);
    for number in ["stored_bytes", "unique_bytes", "created_ms"] {
        assert!(image[number].is_u64(), "{number} in {image}");
    }
    assert!(image["digest"].as_str().is_some_and(|digest| digest.starts_with("blake3:")));

    let shown = world.json(["show", "lab/web:1"]);
    assert_eq!(shown["digest"], image["digest"]);
    assert_eq!(shown["references"][0], "lab/web:1");
    assert_eq!(shown["envelope"]["format"], "ingot.image/1");
    assert!(shown["chunks"].is_u64() && shown["packs"].is_u64());

    let tagged = world.json(["tag", "lab/web:1", "lab/web:stable"]);
    assert_eq!(tagged["digest"], image["digest"]);
    assert_eq!(world.json(["rm", "lab/web:stable"])["reference"], "lab/web:stable");

    let checked = world.json(["check", "--data"]);
    assert_eq!((&checked["images"], &checked["problems"]), (&1.into(), &serde_json::json!([])));
    assert!(checked["hashed_bytes"].as_u64().is_some_and(|bytes| bytes >= 2 << 20));
    let exported = world.json(["export", "lab/web:1", "x.raw"]);
    assert_eq!(exported["data_bytes"], 2 << 20);
}

#[test]
fn names_come_and_go() {
    let world = stocked();
    world.ok(["tag", "lab/web:1", "lab/web:stable"]);
    world.ok(["rm", "lab/web:1"]);
    assert!(world.fails(3, ["show", "lab/web:1"]).contains("there is no image lab/web:1"));
    world.ok(["show", "lab/web:stable"]);
    assert!(world.fails(3, ["rm", "lab/web:1"]).contains("`ingot ls` lists the images"));
    assert!(world.fails(3, ["tag", "none", "x"]).contains("cannot name none x"));
    assert!(world.fails(2, ["tag", "lab/web:stable", "Bad Name"]).contains("not an image name"));
}

#[test]
fn a_store_that_is_not_there_or_cannot_be_is_named() {
    let world = World::new();
    assert!(world.fails(3, ["ls"]).contains("there is no store at"));
    assert!(!exists(&world.path("store")), "asking makes nothing");
    world.file("disk.raw", disk(1));
    world.file("taken", "");
    let complaint = world.fails(1, ["--store", "taken/store", "import", "disk.raw", "-t", "x"]);
    assert!(complaint.contains("cannot open the store") && complaint.contains("--store"));
    std::fs::create_dir(world.path("mine")).unwrap();
    world.file("mine/diary", "dear diary");
    let complaint = world.fails(1, ["--store", "mine", "import", "disk.raw", "-t", "x"]);
    assert!(complaint.contains("is not a store"), "{complaint}");
    assert_eq!(world.names("mine"), ["diary"]);
}

#[test]
fn what_cannot_be_imported_is_said_and_leaves_no_image() {
    let world = stocked();
    assert!(world.fails(3, ["import", "none.raw", "-t", "x"]).contains("cannot read none.raw"));
    world.fails(1, ["import", ".", "-t", "x"]);
    assert_eq!(world.json(["ls"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn a_store_that_is_read_only_says_so_and_stays_as_it_is() {
    let world = stocked();
    world.file("other.raw", disk(2));
    // Root writes everywhere but to a mount that is read-only.
    let namespace = match geteuid().is_root() {
        true => ["--mount", "--propagation=private"].as_slice(),
        false => &["--mount", "--propagation=private", "--map-root-user"],
    };
    let script = "mount --bind $0 $0 && mount -o remount,bind,ro $0 && exec \"$@\"";
    for (folder, next) in [("store", ""), ("store/packs", "make the store writable")] {
        let mut command = Command::new("unshare");
        command.args(namespace).args(["sh", "-c", script, folder, env!("CARGO_BIN_EXE_ingot")]);
        command.args(["--store", "store", "import", "other.raw", "-t", "lab/other"]);
        let ended = end(command.current_dir(world.path(".")).stdin(Stdio::null()));
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:#?}");
        assert!(ended.stderr.contains("read-only"), "{ended:#?}");
        assert!(ended.stderr.contains(&format!("\n  try: {next}")), "{ended:#?}");
    }
    assert!(world.ok(["check", "--data"]).contains("the store is whole: 1 image"));
    world.ok(["import", "other.raw", "-t", "lab/other"]);
}

#[test]
fn what_no_name_needs_is_shown_and_removed() {
    let world = stocked();
    world.file("other.raw", disk(2));
    world.ok(["import", "other.raw", "-t", "lab/other"]);
    assert_eq!(world.ok(["gc"]), "nothing to remove\n");
    world.ok(["rm", "lab/other"]);
    let plan = world.json(["gc", "--dry-run"]);
    assert_eq!((plan["images"].as_array().unwrap().len(), &plan["blobs"]), (1, &2.into()));
    let said = world.ok(["gc", "--dry-run"]);
    assert!(said.contains("which has no name\n") && said.contains("nothing was changed"), "{said}");
    assert_eq!(world.json(["ls"]).as_array().map(Vec::len), Some(2));
    let said = world.ok(["gc"]);
    assert!(said.starts_with("freed ") && said.contains("1 image and 3 files removed"), "{said}");
    assert_eq!(world.json(["ls"]).as_array().map(Vec::len), Some(1));
    assert_eq!(world.json(["gc"])["deleted"], 0);
    assert!(world.ok(["check", "--data"]).contains("the store is whole: 1 image"));
}

#[test]
fn damage_is_found_named_and_ends_with_4() {
    let world = stocked();
    let packs = world.names_below("store/packs");
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(&packs[0], bytes).unwrap();
    let ended = world.run(["check", "--data"]);
    assert_eq!(ended.code, 4, "{ended:#?}");
    assert!(ended.stdout.contains("packs/") && ended.stdout.contains("1 problem:"), "{ended:#?}");
    assert!(world.fails(4, ["export", "lab/web:1", "out.raw"]).contains("is damaged"));
    assert!(!exists(&world.path("out.raw")), "half an image has no name");
    let mut command = world.command(["check", "--data", "--json"]);
    let ended = end(&mut command);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(ended.code, 4);
    assert_eq!(report["problems"][0]["images"].as_array().map(Vec::len), Some(1));
}

#[test]
fn damage_is_repaired_from_what_is_left_and_from_elsewhere() {
    let world = stocked();
    assert!(world.ok(["check", "--repair"]).contains("nothing to repair"));
    let packs = world.names_below("store/packs");
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(&packs[0], &bytes).unwrap();

    assert!(world.fails(2, ["check", "--from", "disk.raw"]).contains("--repair"));
    let refused = world.fails(3, ["check", "--repair", "--from", "none.raw"]);
    assert!(refused.contains("cannot take anything from none.raw"), "{refused}");
    let ended = world.run(["check", "--repair", "--dry-run"]);
    assert_eq!(ended.code, 4, "{ended:#?}");
    for part in ["look for 1 chunk", "nothing was changed", "anew"] {
        assert!(ended.stdout.contains(part), "{part}: {ended:#?}");
    }
    assert!(std::fs::read(&packs[0]).unwrap() == bytes, "a plan changes nothing");

    let ended = world.run(["check", "--repair"]);
    assert_eq!(ended.code, 4, "{ended:#?}");
    for part in ["1 damaged pack written anew", "try: ", "affects: ", "1 problem left: 1 image"] {
        assert!(ended.stdout.contains(part), "{part}: {ended:#?}");
    }
    assert!(world.fails(4, ["export", "lab/web:1", "out.raw"]).contains("missing"));
    assert_eq!(world.json(["ls"]).as_array().map(Vec::len), Some(1));

    let report = world.json(["check", "--repair", "--from", "disk.raw"]);
    assert_eq!(report["done"]["taken"][0]["chunks"], 1);
    assert_eq!(report["done"]["taken"][0]["from"], "disk.raw");
    assert_eq!(
        (report["found"]["problems"].as_array().unwrap().len(), &report["left"]),
        (1, &serde_json::json!([]))
    );
    assert!(world.ok(["check", "--data"]).contains("the store is whole"));
    world.ok(["export", "lab/web:1", "out.raw"]);
    assert!(std::fs::read(world.path("out.raw")).unwrap() == disk(1));
}

#[test]
fn an_image_is_written_onto_a_file_that_stands_for_a_disk() {
    let world = stocked();
    let old = noise(9, 6 << 20);
    world.file("vm.raw", &old);
    let plan = world.json(["write", "lab/web:1", "vm.raw", "--plan"]);
    for (key, mib) in [("image_bytes", 3), ("untouched_bytes", 2), ("cleared_bytes", 1)] {
        assert_eq!(plan[key], mib << 20, "{key}");
    }
    assert_eq!(plan["disk"]["block_device"], false);
    assert!(std::fs::read(world.path("vm.raw")).unwrap() == old, "a plan changes nothing");
    world.ok(["write", "lab/web:1", "vm.raw"]);
    let new = std::fs::read(world.path("vm.raw")).unwrap();
    assert!(new[..3 << 20] == disk(1) && new[3 << 20..5 << 20] == old[3 << 20..5 << 20]);
    assert!(new[5 << 20..].iter().all(|byte| *byte == 0), "no old partition table at the end");
    let plan = world.ok(["write", "lab/web:1", "vm.raw", "--plan"]);
    assert!(plan.contains("the last 1.0 MiB") && plan.contains("2.0 MiB behind"), "{plan}");
    assert!(plan.contains("3.0 MiB that the disk has in place"), "{plan}");
}

#[test]
fn an_update_fetches_and_writes_what_differs() {
    let world = World::new();
    // Six frames.
    const LEN: u64 = 24 << 20;
    let first = noise(1, LEN as usize);
    let mut second = first.clone();
    second[11_000_000..11_000_500].fill(7);
    world.file("first.raw", &first);
    world.file("second.raw", &second);
    world.ok(["import", "first.raw", "-t", "web:1"]);
    world.ok(["import", "second.raw", "-t", "web:2"]);
    world.file("vm.raw", vec![0; LEN as usize]);
    let done = world.json(["write", "web:1", "vm.raw"]);
    assert_eq!(done["present_bytes"], 0);
    assert_eq!(
        (&done["write_bytes"], &done["written_bytes"]),
        (&done["image_bytes"], &done["image_bytes"])
    );
    assert_eq!(done["requests"], 2);

    let plan = world.json(["write", "web:2", "vm.raw", "--plan"]);
    let number = |of: &Value, key: &str| of[key].as_u64().unwrap();
    assert_eq!(number(&plan, "present_bytes") + number(&plan, "write_bytes"), LEN);
    // Both ends and a chunk, whose neighbours may be cut anew.
    assert!(number(&plan, "write_bytes") < (2 << 20) + 5 * 262_144, "{plan}");
    // The frames that these are in.
    assert!(number(&plan, "fetch_bytes") < (8 << 20) + 5 * 262_144, "{plan}");
    assert!(plan["written_bytes"].is_null());
    assert!(std::fs::read(world.path("vm.raw")).unwrap() == first, "a plan changes nothing");

    let done = world.json(["write", "web:2", "vm.raw"]);
    assert_eq!(done["fetch_bytes"], plan["fetch_bytes"]);
    assert!(std::fs::read(world.path("vm.raw")).unwrap() == second);
    // Two blocks at most, and the ends twice: cleared, and written at last.
    assert!(number(&done, "written_bytes") <= (4 << 20) + 2 * 4096, "{done}");
    assert_eq!(number(&done, "written_bytes") + number(&done, "skipped_bytes"), LEN + (2 << 20));

    let again = world.json(["write", "web:2", "vm.raw"]);
    for (key, bytes) in [("written_bytes", 0), ("fetch_bytes", 0), ("skipped_bytes", LEN)] {
        assert_eq!(again[key], bytes, "{key}");
    }
}

#[test]
fn what_is_no_disk_or_too_small_is_refused_untouched() {
    let world = stocked();
    world.file("small.raw", [7; 512]);
    let complaint = world.fails(6, ["write", "lab/web:1", "small.raw"]);
    assert!(complaint.contains("the image needs 3.0 MiB"), "{complaint}");
    assert_eq!(std::fs::read(world.path("small.raw")).unwrap(), [7; 512]);
    assert!(world.fails(6, ["write", "lab/web:1", "/dev/null"]).contains("is not a disk"));
    assert!(world.fails(3, ["write", "lab/web:1", "none.raw"]).contains("cannot look at"));
    assert!(world.fails(6, ["export", "lab/web:1", "/dev/null"]).contains("ingot write"));
    assert!(world.fails(6, ["export", "lab/web:1", "store"]).contains("it is a folder"));
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_a_whole_store() {
    let world = stocked();
    let mut command: Command = world.command(["import", "-", "-t", "never"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: once this returns, the import is reading.
    stdin.write_all(&noise(3, 1 << 20)).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted by SIGINT"));
    assert!(world.ok(["check", "--data"]).contains("the store is whole"));
    assert_eq!(world.json(["ls"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn progress_is_plain_lines_or_json_and_never_in_the_result() {
    let world = World::new();
    world.file("disk.raw", disk(2));
    let ended = world.run(["import", "disk.raw", "-t", "a"]);
    let why = "disk is kept with its free space: it is neither ext4 nor FAT";
    assert_eq!(ended.stderr, format!("reading disk.raw\n{why}\n"));
    assert!(ended.stdout.starts_with("a is ") && ended.stdout.lines().count() == 1);
    assert_eq!(world.run(["import", "disk.raw", "-t", "a", "--quiet"]).stderr, "");
    let ended = world.run(["import", "disk.raw", "-t", "a", "--json"]);
    for line in ended.stderr.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["event"].is_string(), "{line}");
    }
    assert!(serde_json::from_str::<Value>(&ended.stdout).is_ok());
}
