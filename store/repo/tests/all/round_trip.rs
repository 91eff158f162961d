//! What is imported comes back byte for byte.
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{Lab, MIB, gpt_disk, import, mbr_disk, noise, options, sparse, text};
use expect_test::expect;
use proptest::prelude::*;
use store_format::{BootSpec, Envelope, Extent, PartitionTable};
use store_repo::{ImportError, ImportOptions, LayoutError, Source};

/// Imports, exports, compares; also that the export has its holes and that the
/// store is whole.
async fn round_trip(lab: &Lab, disk: &Path) -> Envelope {
    let imported = lab.import(disk, "test").await;
    let target = lab.path("exported");
    let exported = lab.repo.export(&imported.digest, &target).await.unwrap();
    assert_eq!(exported.data_bytes, imported.data_bytes);
    assert!(fs::read(disk).unwrap() == fs::read(&target).unwrap(), "other bytes came back");
    let blocks = target.metadata().unwrap().blocks() * 512;
    assert!(blocks <= exported.data_bytes + MIB, "{blocks} bytes on disk");
    let report = lab.repo.check(true).await.unwrap();
    assert_eq!(report.problems, []);
    lab.repo.envelope(&imported.digest).await.unwrap()
}

#[tokio::test]
async fn a_gpt_disk() {
    let lab = Lab::new().await;
    let envelope = round_trip(&lab, &gpt_disk(&lab.path("disk"), 512, 1)).await;
    let names: Vec<_> = envelope.regions.iter().map(|region| region.name.as_str()).collect();
    assert_eq!(names, ["head", "partition-1", "partition-2", "tail"]);
    let Some(PartitionTable::Gpt { disk_guid, partitions }) = &envelope.table else {
        panic!("{:?}", envelope.table)
    };
    assert_eq!(disk_guid, "6c4bd9bf-0f3b-4a39-8a92-a4e70c1fb4a2");
    assert_eq!((partitions[1].number, partitions[1].name.as_str()), (2, "part 2"));
    assert_eq!((partitions[1].flags, partitions[1].first_lba), (1 << 59, 9 * 2048));
    let bytes = &fs::read(lab.path("disk")).unwrap()[MIB as usize..9 * MIB as usize];
    assert_eq!(envelope.regions[1].digest, store_format::region::digest(bytes));
}

#[tokio::test]
async fn a_gpt_disk_with_large_sectors() {
    let lab = Lab::new().await;
    let envelope = round_trip(&lab, &gpt_disk(&lab.path("disk"), 4096, 1)).await;
    assert_eq!(envelope.sector_bytes, 4096);
    assert_eq!(envelope.regions.len(), 4);
}

#[tokio::test]
async fn a_disk_with_a_pc_table_and_logical_partitions() {
    let lab = Lab::new().await;
    let envelope = round_trip(&lab, &mbr_disk(&lab.path("disk"))).await;
    let Some(PartitionTable::Mbr { signature, partitions }) = &envelope.table else {
        panic!("{:?}", envelope.table)
    };
    assert_eq!(signature, "12345678");
    let numbers: Vec<_> = partitions.iter().map(|partition| partition.number).collect();
    assert_eq!(numbers, [1, 2, 5, 6]);
    let regions: Vec<_> = envelope.regions.iter().map(|region| region.partition).collect();
    assert_eq!(regions, [None, Some(1), None, Some(5), None, Some(6), None]);
}

#[tokio::test]
async fn disks_without_a_table() {
    let lab = Lab::new().await;
    let byte = sparse(&lab.path("byte"), 1, &[(0, b"x")]);
    let odd = sparse(&lab.path("odd"), 3 * MIB + 77, &[(MIB + 3, &noise(5, 700_001))]);
    let full = sparse(&lab.path("full"), 9 * MIB, &[(0, &noise(6, 9 << 20))]);
    for disk in [byte, odd, full] {
        let envelope = round_trip(&lab, &disk).await;
        assert_eq!((envelope.table, envelope.regions.len()), (None, 1));
    }
}

#[tokio::test]
async fn disks_with_nothing_or_only_holes() {
    let lab = Lab::new().await;
    for len in [0, 1, 4096, 100 * MIB] {
        let disk = sparse(&lab.path("empty"), len, &[]);
        let envelope = round_trip(&lab, &disk).await;
        assert_eq!(envelope.disk_bytes, len);
    }
    assert_eq!(lab.files("packs"), Vec::<std::path::PathBuf>::new());
}

/// Content at places of a disk.
type Parts<'a> = &'a [(u64, &'a [u8])];

#[tokio::test]
async fn disks_of_every_shape_with_small_and_large_sectors() {
    for sector in [512, 4096] {
        let lab = Lab::new().await;
        let block = u64::from(sector);
        let shapes: &[(u64, Parts<'_>)] = &[
            (0, &[]),
            (block, &[]),
            (100 * MIB, &[]),
            (block, &[(block - 1, b"x")]),
            (MIB, &[(0, &noise(1, 1 << 20))]),
            (5 * MIB, &[(0, b"x"), (5 * MIB - 1, b"y")]),
            (5 * MIB + block, &[(3 * MIB - 1, &noise(2, 300_001))]),
        ];
        for (number, (len, parts)) in shapes.iter().enumerate() {
            let disk = sparse(&lab.path("disk"), *len, parts);
            let options = ImportOptions { sector_bytes: Some(sector), ..options("shape") };
            let image = import(&lab.repo, &disk, options).await.unwrap();
            lab.repo.export(&image.digest, &lab.path("exported")).await.unwrap();
            let same = fs::read(lab.path("exported")).unwrap() == fs::read(&disk).unwrap();
            assert!(same, "shape {number}, sectors of {sector}");
            let envelope = lab.repo.envelope(&image.digest).await.unwrap();
            assert_eq!((envelope.disk_bytes, envelope.sector_bytes), (*len, sector));
        }
        assert_eq!(lab.repo.check(true).await.unwrap().problems, []);
    }
}

#[tokio::test]
async fn three_terabytes_of_hole_cost_nothing() {
    let lab = Lab::new().await;
    let len = 3 << 40;
    let disk = sparse(&lab.path("large"), len, &[(len - 5 * MIB, &noise(1, 1 << 20))]);
    let imported = lab.import(&disk, "large").await;
    assert_eq!((imported.disk_bytes, imported.data_bytes), (len, MIB));
    let exported = lab.repo.export(&imported.digest, &lab.path("exported")).await.unwrap();
    assert_eq!(exported.disk_bytes, len);
    let file = fs::File::open(lab.path("exported")).unwrap();
    let mut end = vec![1; 6 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, len - 6 * MIB).unwrap();
    let zeros = |count: usize| vec![0; count << 20];
    assert!(end == [zeros(1), noise(1, 1 << 20), zeros(4)].concat());
    let blocks = file.metadata().unwrap().blocks() * 512;
    assert!(blocks <= 2 * MIB, "{blocks} bytes are not in holes");
    assert_eq!(lab.repo.check(true).await.unwrap().problems, []);
}

#[tokio::test]
async fn zeros_are_holes_whether_they_are_written_or_not() {
    let lab = Lab::new().await;
    let data = [noise(1, 50_000), vec![0; 300_000], text(1, 900_000), vec![0; 70_000]].concat();
    let thick = lab.path("thick");
    fs::write(&thick, &data).unwrap();
    let thin = sparse(
        &lab.path("thin"),
        data.len() as u64,
        &[(0, &data[..50_000]), (350_000, &data[350_000..1_250_000])],
    );
    let first = lab.import(&thick, "thick").await;
    let second = lab.import(&thin, "thin").await;
    assert_eq!(first.digest, second.digest);
    assert_eq!((second.new_chunks, second.new_bytes), (0, 0));
    let table = lab.repo.table(&first.digest).await.unwrap();
    let holes = table.regions[0].iter().filter(|extent| matches!(extent, Extent::Hole { .. }));
    assert_eq!(holes.count(), 2);
}

#[tokio::test]
async fn a_stream_is_the_image_that_the_file_is() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let from_file = lab.import(&disk, "file").await;
    let bytes = fs::read(&disk).unwrap();
    let stream = Source::Stream(Box::new(Cursor::new(bytes)));
    let from_stream = lab.repo.import(stream, options("stream"), |_| {}).await.unwrap();
    assert_eq!(from_file.digest, from_stream.digest);
    assert_eq!(from_stream.new_bytes, 0);
}

#[tokio::test]
async fn the_same_disk_gives_the_same_packs_in_another_store() {
    let (one, two) = (Lab::new().await, Lab::new().await);
    // More than a pack, so that order matters.
    let data = noise(9, 70 << 20);
    let disk = sparse(&one.path("disk"), 80 * MIB, &[(MIB, &data)]);
    let (first, second) = (one.import(&disk, "a").await, two.import(&disk, "b").await);
    assert_eq!(first, second);
    let names = |lab: &Lab| -> Vec<_> {
        lab.files("packs").iter().map(|path| path.file_name().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&one), names(&two));
    assert_eq!(names(&one).len(), 2);
}

#[tokio::test]
async fn the_same_content_is_stored_once() {
    let mut lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let first = lab.import(&disk, "a").await;
    assert!(first.new_bytes > 3 * MIB && first.new_bytes == first.stored_bytes, "{first:?}");
    let packs = lab.files("packs");
    let second = lab.import(&disk, "b").await;
    assert_eq!((second.new_bytes, second.new_chunks), (0, 0));
    lab.reopen().await;
    let third = lab.import(&disk, "c").await;
    assert_eq!((third.new_bytes, third.digest), (0, first.digest));
    assert_eq!(lab.files("packs"), packs);
    // Another image of mostly the same content brings what is new.
    let fourth = lab.import(&gpt_disk(&lab.path("other"), 512, 2), "d").await;
    assert!(fourth.new_bytes < fourth.stored_bytes + MIB, "{fourth:?}");
    let fifth = lab.import(&mbr_disk(&lab.path("mbr")), "e").await;
    assert_ne!(fifth.digest, fourth.digest);
}

#[tokio::test]
async fn disks_are_cut_where_they_were_always_cut() {
    let lab = Lab::new().await;
    let data = [noise(1, 3 << 20), text(2, 1 << 20), vec![0; 50_000], noise(3, 100_001)].concat();
    let disk = lab.path("disk");
    fs::write(&disk, &data).unwrap();
    let imported = lab.import(&disk, "x").await;
    let table = lab.repo.table(&imported.digest).await.unwrap();
    let lens: Vec<String> =
        table.regions[0].iter().map(|extent| extent.bytes().to_string()).collect();
    // Another cut anywhere, and stores share nothing with what they have.
    expect!["83404 68346 82041 66076 109062 83023 40585 78781 72389 82490 70152 75368 69080 89499 92041 78681 75220 65935 74824 84589 93108 41140 71359 65902 41498 99291 93020 86218 60043 94873 97133 68225 80635 82701 83319 25768 18026 107579 99106 71235 147158 27546 112593 111611 87747 68692 197729 62310 74867 70974 70632 26572 81371 96950 24246 61542"].assert_eq(&lens.join(" "));
    expect!["blake3:6b227197bf455103fbc2c58cbbeb4bef52165a88c1d3e54a0841028b799eeefa"]
        .assert_eq(&store_format::digest_of(&table.encode()).to_string());
}

#[tokio::test]
async fn what_is_said_about_an_image_is_part_of_it() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let plain = lab.import(&disk, "plain").await;
    let boot = BootSpec {
        partition: 2,
        kernel: "/vmlinuz".to_owned(),
        initrd: Some("/initrd.img".to_owned()),
        cmdline: "root=LABEL=root ro".to_owned(),
    };
    let described = ImportOptions {
        boot: Some(boot.clone()),
        grow: Some(2),
        configuration: [("role".to_owned(), "web".to_owned())].into(),
        ..options("described")
    };
    let described = import(&lab.repo, &disk, described).await.unwrap();
    assert_ne!(plain.digest, described.digest);
    assert_eq!(described.new_bytes, 0);
    let details = lab.repo.details(&described.digest).await.unwrap();
    assert_eq!(details.envelope.boot, Some(boot));
    assert_eq!(details.references, ["described:latest".parse().unwrap()]);
    assert_eq!(details.stored_bytes, described.stored_bytes);
    for wrong in [
        ImportOptions { grow: Some(1), ..ImportOptions::default() },
        ImportOptions { grow: Some(3), ..ImportOptions::default() },
    ] {
        let error = import(&lab.repo, &disk, wrong).await.unwrap_err();
        assert!(matches!(error, ImportError::Envelope(_)), "{error:?}");
    }
}

#[tokio::test]
async fn disks_that_are_cut_short_or_damaged_are_refused() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let whole = fs::read(&disk).unwrap();
    let mut damaged = whole.clone();
    damaged[512 + 60] ^= 1;
    let mut gone = whole.clone();
    gone[512..520].fill(0);
    for bytes in [&whole[..20 << 20], &damaged, &gone] {
        fs::write(&disk, bytes).unwrap();
        let error = import(&lab.repo, &disk, options("x")).await.unwrap_err();
        let ImportError::Layout { source, .. } = error else { panic!("{error:?}") };
        let expected = matches!(
            source,
            LayoutError::Outside { number: 2 } | LayoutError::Gpt(_) | LayoutError::NoGpt
        );
        assert!(expected, "{source:?}");
    }
    let missing = import(&lab.repo, &lab.path("missing"), options("x")).await.unwrap_err();
    assert!(matches!(missing, ImportError::Source { .. }), "{missing:?}");
}

#[tokio::test]
async fn a_gpt_whose_entries_are_elsewhere_is_refused_with_the_remedy() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let mut bytes = fs::read(&disk).unwrap();
    // As sgdisk --move-main-table does it: UEFI 2.10 section 5.3.2.
    bytes.copy_within(2 * 512..34 * 512, 40 * 512);
    bytes[2 * 512..34 * 512].fill(0);
    let header = &mut bytes[512..512 + 92];
    header[72..80].copy_from_slice(&40_u64.to_le_bytes());
    header[16..20].fill(0);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    fs::write(&disk, bytes).unwrap();
    let error = import(&lab.repo, &disk, options("x")).await.unwrap_err();
    let ImportError::Layout { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(source, LayoutError::GptPlace { lba: 40 }), "{source:?}");
    assert!(source.to_string().contains("sgdisk --move-main-table=2"), "{source}");
}

#[tokio::test]
async fn progress_rises_to_the_whole() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let (send, receive) = std::sync::mpsc::channel();
    let source = Source::Path(disk);
    let note = move |progress| send.send(progress).unwrap();
    let imported = lab.repo.import(source, options("x"), note).await.unwrap();
    let seen: Vec<store_repo::ImportProgress> = receive.iter().collect();
    assert!(seen.is_sorted_by_key(|progress| (progress.done_bytes, progress.new_bytes)));
    let last = seen.last().unwrap();
    assert_eq!((last.done_bytes, last.disk_bytes), (32 * MIB, 32 * MIB));
    assert_eq!(last.new_bytes, imported.new_bytes);
}

/// A stretch of a made-up disk.
#[derive(Debug, Clone)]
enum Part {
    Noise(u64, usize),
    Text(u64, usize),
    Zeros(usize),
    Hole(u64),
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        (0..3_u64, 1..600_000_usize).prop_map(|(seed, len)| Part::Noise(seed, len)),
        (0..3_u64, 1..300_000_usize).prop_map(|(seed, len)| Part::Text(seed, len)),
        (1..200_000_usize).prop_map(Part::Zeros),
        (1..3_000_000_u64).prop_map(Part::Hole),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_bytes_and_holes_come_back(parts in prop::collection::vec(part(), 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new().await;
            let mut filled: Vec<(u64, Vec<u8>)> = Vec::new();
            let mut end = 0_u64;
            for part in parts {
                let bytes = match part {
                    Part::Noise(seed, len) => noise(seed, len),
                    Part::Text(seed, len) => text(seed, len),
                    Part::Zeros(len) => vec![0; len],
                    Part::Hole(len) => { end += len; continue }
                };
                let len = bytes.len() as u64;
                filled.push((end, bytes));
                end += len;
            }
            let filled: Vec<_> = filled.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
            let disk = sparse(&lab.path("disk"), end, &filled);
            round_trip(&lab, &disk).await;
        });
    }
}
