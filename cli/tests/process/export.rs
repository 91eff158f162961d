//! Images and parts of them as files.

use serde_json::Value;

use crate::support::{World, exists, noise};

const MIB: usize = 1 << 20;

/// A disk of 4 MiB with a PC partition table: partition 1 is its second and
/// third MiB, of which the latter is zeros.
fn partitioned() -> Vec<u8> {
    let mut disk = noise(1, 4 * MIB);
    disk[2 * MIB..3 * MIB].fill(0);
    disk[446..510].fill(0);
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    disk[458..462].copy_from_slice(&4096_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A world with that disk as `lab/web:1`.
fn stocked() -> World {
    let world = World::new();
    world.file("disk.raw", partitioned());
    world.ok(["import", "disk.raw", "-t", "lab/web:1"]);
    world
}

#[test]
fn a_partition_or_a_range_comes_out_alone() {
    let world = stocked();
    let disk = partitioned();
    let cases: [(&[&str], _); 4] = [
        (&["--partition", "1"], MIB..3 * MIB),
        (&["--offset", "1MiB", "--bytes", "2 MiB"], MIB..3 * MIB),
        (&["--bytes", "1000"], 0..1000),
        (&["--offset", "3145729"], 3 * MIB + 1..4 * MIB),
    ];
    for (options, range) in cases {
        let said = world.json([&["export", "lab/web:1", "out"], options].concat());
        assert_eq!(said["disk_bytes"], range.len() as u64, "{options:?}");
        assert!(std::fs::read(world.path("out")).unwrap() == disk[range.clone()], "{options:?}");
        let mut command = world.command([&["export", "lab/web:1", "-"], options].concat());
        let streamed = command.output().unwrap();
        assert!(streamed.status.success() && streamed.stdout == disk[range], "{options:?}");
    }
    assert_eq!(world.json(["export", "lab/web:1", "out", "--partition", "1"])["data_bytes"], MIB);
}

#[test]
fn a_part_that_is_not_there_is_refused_and_makes_no_file() {
    let world = stocked();
    let complaint = world.fails(3, ["export", "lab/web:1", "out", "--partition", "2"]);
    assert!(complaint.contains("no partition 2") && complaint.contains("ingot show lab/web:1"));
    let complaint = world.fails(2, ["export", "lab/web:1", "out", "--offset", "5MiB"]);
    assert!(complaint.contains("which has 4194304"), "{complaint}");
    world.fails(2, ["export", "lab/web:1", "out", "--offset", "3MiB", "--bytes", "2MiB"]);
    world.fails(2, ["export", "lab/web:1", "out", "--partition", "1", "--bytes", "2"]);
    let complaint = world.fails(2, ["export", "lab/web:1", "out", "--bytes", "2 GIB"]);
    assert!(complaint.contains("KiB, MiB, GiB"), "{complaint}");
    assert!(!exists(&world.path("out")));
}

/// The progress that a command reports with `--json`.
fn events(world: &World, args: &[&str]) -> Vec<Value> {
    let ended = world.run([args, &["--json"]].concat());
    assert_eq!(ended.code, 0, "{ended:#?}");
    ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn import_and_export_report_the_same_progress() {
    let world = stocked();
    let commands: [(&[&str], _); 3] = [
        (&["import", "disk.raw", "-t", "again"], 4 * MIB),
        (&["export", "lab/web:1", "out.raw"], 4 * MIB),
        (&["export", "lab/web:1", "out.raw", "--partition", "1"], 2 * MIB),
    ];
    for (args, total) in commands {
        let events = events(&world, args);
        assert_eq!(events[0]["event"], "step", "{events:?}");
        let bytes = &events[1..];
        assert!(bytes.iter().all(|event| event["event"] == "bytes"), "{events:?}");
        assert!(bytes.is_sorted_by_key(|event| event["done_bytes"].as_u64()), "{events:?}");
        assert!(bytes.iter().all(|event| event["total_bytes"] == total), "{events:?}");
        assert_eq!(bytes.last().unwrap()["done_bytes"], total, "{events:?}");
    }
    // Beside bytes on standard output there is progress too.
    let mut command = world.command(["export", "lab/web:1", "-", "--json"]);
    let output = command.output().unwrap();
    assert!(output.stdout == partitioned());
    let last = String::from_utf8(output.stderr).unwrap().lines().last().unwrap().to_owned();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["event"], &last["done_bytes"]), (&"bytes".into(), &(4 * MIB).into()));
}

#[test]
fn qcow2_is_a_file_for_qemu_and_no_stream() {
    let world = stocked();
    let said = world.json(["export", "lab/web:1", "disk.qcow2", "--format", "qcow2"]);
    assert_eq!((&said["disk_bytes"], &said["added_bytes"]), (&(4 * MIB).into(), &0.into()));
    let mut qemu = std::process::Command::new("qemu-img");
    qemu.args(["compare", "disk.qcow2", "disk.raw"]).current_dir(world.path("."));
    assert!(qemu.output().unwrap().status.success());
    let odd = ["export", "lab/web:1", "odd.qcow2", "--format", "qcow2", "--bytes", "1000"];
    let ended = world.run(odd);
    assert!(ended.stderr.contains("24 B longer than the image"), "{ended:#?}");
    let complaint = world.fails(2, ["export", "lab/web:1", "-", "--format", "qcow2"]);
    assert!(complaint.contains("name a file"), "{complaint}");
}
