//! What differs between two images, region by region.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::json;
use store_format::Plan;
use store_repo::{ImageDiff, Transfer};

use crate::common::{Lab, MIB, gpt_disk, import, mbr_disk, noise, options, sparse};

async fn diff(lab: &Lab, from: &str, to: &str) -> ImageDiff {
    let from = lab.repo.resolve(&from.parse().unwrap()).await.unwrap();
    let to = lab.repo.resolve(&to.parse().unwrap()).await.unwrap();
    lab.repo.diff(&from, &to).await.unwrap()
}

#[tokio::test]
async fn the_transfer_is_what_a_reader_of_one_lacks_of_the_other() {
    let lab = Lab::new().await;
    let one = gpt_disk(&lab.path("one"), 512, 1);
    lab.import(&one, "one").await;
    let two = lab.path("two");
    std::fs::copy(&one, &two).unwrap();
    let file = File::options().write(true).open(&two).unwrap();
    // In the first partition 1 MiB at its end, in the second a part of its middle.
    file.write_all_at(&noise(7, 1 << 20), 8 * MIB).unwrap();
    file.write_all_at(&noise(8, 300_000), 11 * MIB).unwrap();
    let two = lab.import(&two, "two").await;

    let diff = diff(&lab, "one", "two").await;
    assert_eq!((diff.transfer.chunks, diff.transfer.stored_bytes), (two.new_chunks, two.new_bytes));
    let names: Vec<_> = diff.regions.iter().map(|region| region.name.as_str()).collect();
    assert_eq!(names, ["head", "partition-1", "partition-2", "tail"]);
    let same: Vec<_> = diff.regions.iter().map(|region| region.same).collect();
    assert_eq!(same, [true, false, false, true]);
    let [head, first, second, _] = &diff.regions[..] else { panic!("{diff:?}") };
    assert_eq!((head.changed_bytes, head.transfer), (0, Transfer::default()));
    assert_eq!((first.changed_bytes, first.partition), (MIB, Some(1)));
    assert_eq!(first.transfer.plain_bytes, MIB);
    assert!(second.changed_bytes >= 300_000 && second.changed_bytes < MIB, "{second:?}");
    assert!(second.transfer.plain_bytes >= 300_000 && second.transfer.plain_bytes < MIB);
    let sum = |of: fn(&Transfer) -> u64| diff.regions.iter().map(|r| of(&r.transfer)).sum::<u64>();
    assert_eq!(sum(|t| t.chunks), diff.transfer.chunks);
    assert_eq!(sum(|t| t.plain_bytes), diff.transfer.plain_bytes);
    // Both regions have chunks in the same frame.
    assert!(sum(|t| t.stored_bytes) > diff.transfer.stored_bytes);
    assert_eq!(diff.values, []);

    // The requests are those that a machine makes.
    let known: Vec<_> = lab.repo.table(&diff.from).await.unwrap().distinct().collect();
    let table = lab.repo.table(&diff.to).await.unwrap();
    let wanted = table.distinct().enumerate().filter(|(_, chunk)| !known.contains(chunk));
    let locations = crate::common::locations(&lab.repo, &diff.to).await;
    let plan = Plan::of(wanted.map(|(index, _)| index), &locations).unwrap();
    assert_eq!(diff.transfer.requests, plan.ranges.len() as u64);
    assert_eq!(diff.transfer.wire_bytes, plan.wire_bytes);
    assert!(plan.wire_bytes >= diff.transfer.stored_bytes);
}

#[tokio::test]
async fn an_image_does_not_differ_from_itself() {
    let lab = Lab::new().await;
    lab.import(&gpt_disk(&lab.path("one"), 512, 1), "one").await;
    let diff = diff(&lab, "one", "one").await;
    assert!(diff.regions.iter().all(|region| region.same), "{diff:?}");
    assert_eq!((diff.transfer, diff.values.len()), (Transfer::default(), 0));
}

#[tokio::test]
async fn what_moved_is_changed_and_not_fetched() {
    let lab = Lab::new().await;
    let bytes = noise(1, 1 << 20);
    lab.import(&sparse(&lab.path("one"), 8 * MIB, &[(0, &bytes)]), "one").await;
    lab.import(&sparse(&lab.path("two"), 9 * MIB, &[(4 * MIB, &bytes)]), "two").await;
    let diff = diff(&lab, "one", "two").await;
    let [disk] = &diff.regions[..] else { panic!("{diff:?}") };
    // Where it was are zeros now, and behind the old end there was nothing.
    assert_eq!((disk.changed_bytes, disk.transfer), (3 * MIB, Transfer::default()));
    assert_eq!((disk.from_bytes, disk.to_bytes), (Some(8 * MIB), Some(9 * MIB)));
}

#[tokio::test]
async fn regions_come_and_go_and_envelopes_say_other_things() {
    let lab = Lab::new().await;
    lab.import(&gpt_disk(&lab.path("gpt"), 512, 1), "gpt").await;
    let disk = sparse(&lab.path("bare"), 4 * MIB, &[(0, &noise(1, 4096))]);
    let mut named = options("bare");
    named.configuration.insert("firmware".to_owned(), "bios".to_owned());
    import(&lab.repo, &disk, named).await.unwrap();
    let apart = diff(&lab, "gpt", "bare").await;
    let regions: Vec<_> =
        apart.regions.iter().map(|r| (r.name.as_str(), r.from_bytes, r.to_bytes)).collect();
    assert_eq!(
        regions,
        [
            ("disk", None, Some(4 * MIB)),
            ("head", Some(MIB), None),
            ("partition-1", Some(8 * MIB), None),
            ("partition-2", Some(16 * MIB), None),
            ("tail", Some(7 * MIB), None),
        ]
    );
    let value = |key: &str| apart.values.iter().find(|value| value.key == key);
    let name = value("table.partitions.2.name").unwrap();
    assert_eq!((&name.from, &name.to), (&json!("part 2"), &json!(null)));
    let disk = value("disk_bytes").unwrap();
    assert_eq!((&disk.from, &disk.to), (&json!(32 * MIB), &json!(4 * MIB)));
    let firmware = value("configuration.firmware").unwrap();
    assert_eq!((&firmware.from, &firmware.to), (&json!(null), &json!("bios")));
    assert!(value("sector_bytes").is_none(), "the same is not listed");

    lab.import(&mbr_disk(&lab.path("mbr")), "mbr").await;
    let kinds = diff(&lab, "gpt", "mbr").await;
    let kind = kinds.values.iter().find(|value| value.key == "table.kind").unwrap();
    assert_eq!((&kind.from, &kind.to), (&json!("gpt"), &json!("mbr")));
    assert_eq!(kinds.regions.iter().filter(|r| r.name == "partition-1").count(), 1);
}

#[tokio::test]
async fn a_partition_that_got_another_number_is_found_by_its_name() {
    let lab = Lab::new().await;
    let one = gpt_disk(&lab.path("one"), 512, 1);
    lab.import(&one, "one").await;
    // The second partition as number 5: the entry, and the checksums of entries and header.
    let file = File::options().read(true).write(true).open(&one).unwrap();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let (mut header, mut entries) = (vec![0; 92], vec![0; 128 * 128]);
    file.read_exact_at(&mut header, 512).unwrap();
    file.read_exact_at(&mut entries, 1024).unwrap();
    entries.copy_within(128..256, 4 * 128);
    entries[128..256].fill(0);
    header[88..92].copy_from_slice(&crc.checksum(&entries).to_le_bytes());
    header[16..20].fill(0);
    let sum = crc.checksum(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 512).unwrap();
    file.write_all_at(&entries, 1024).unwrap();
    import(&lab.repo, &one, options("two")).await.unwrap();
    let diff = diff(&lab, "one", "two").await;
    let moved = diff.regions.iter().find(|region| region.partition == Some(5)).unwrap();
    assert_eq!((moved.from_partition, moved.same), (Some(2), true));
    assert!(diff.regions.iter().all(|region| region.to_bytes.is_some()), "{diff:?}");
}
