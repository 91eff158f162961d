//! Whole installations onto disks in memory and in files, from a store in the same process.

use std::sync::atomic::Ordering;

use crate::support::server::Fault;
use crate::support::target::MemoryDisk;
use crate::support::{
    DISK, Sample, Server, client, events, machine, member, order, report, sample,
};
use agent::install::{InstallError, Job, Purpose, install};
use agent::receipt;
use agent::target::{Disk, Target};
use wire::{EventKind, Outcome, Receipt, ReceiptState, Step};

/// Installs a sample onto a disk; gives the result and what was said.
fn run(
    server: &Server,
    sample: &Sample,
    disk: &dyn Target,
) -> (Result<(), InstallError>, Vec<wire::Event>) {
    let console = tempfile::NamedTempFile::new().unwrap();
    let report = report(console.path());
    let (order, machine, client) = (order(sample), machine(), client(server));
    let members = vec![member(&order.system, sample, disk)];
    let (run, purpose) = (&order.run, Purpose::Start);
    let job = Job { run, machine: &machine, members, purpose, client: &client, report: &report };
    let result = install(&job).map_err(|failed| *failed.error);
    (result, events(&report))
}

fn receipt_on(disk: &[u8]) -> Option<Receipt> {
    let at = usize::try_from(receipt::START).unwrap();
    receipt::decode(&disk[at..at + receipt::BYTES]).ok()
}

/// The disk with the receipt's slot emptied: what the image must equal.
fn without_receipt(mut disk: Vec<u8>) -> Vec<u8> {
    let at = usize::try_from(receipt::START).unwrap();
    disk[at..at + receipt::BYTES].fill(0);
    disk
}

#[track_caller]
fn assert_installed(disk: &MemoryDisk, sample: &Sample) {
    let bytes = disk.bytes_now();
    let receipt = receipt_on(&bytes).expect("a receipt");
    assert_eq!((receipt.state, receipt.image), (ReceiptState::Installed, sample.digest()));
    let bytes = without_receipt(bytes);
    let wrong = (0..sample.disk.len()).find(|&at| bytes[at] != sample.disk[at]);
    assert_eq!(wrong, None, "first byte that differs");
}

fn old_disk() -> MemoryDisk {
    // A foreign disk full of data.
    MemoryDisk::new(vec![0x5a; usize::try_from(DISK).unwrap()], 512)
}

fn ended(events: &[wire::Event], step: Step) -> (Outcome, u64, u64) {
    let end = events.iter().find_map(|event| match &event.kind {
        EventKind::StepEnded { step: this, outcome, received_bytes, written_bytes, .. }
            if *this == step =>
        {
            Some((outcome.clone(), *received_bytes, *written_bytes))
        }
        _ => None,
    });
    end.unwrap_or_else(|| panic!("{step:?} did not end"))
}

fn planned(events: &[wire::Event]) -> (u64, u64, u64) {
    let plan = events.iter().find_map(|event| match event.kind {
        EventKind::Planned { image_bytes, present_bytes, fetch_bytes, .. } => {
            Some((image_bytes, present_bytes, fetch_bytes))
        }
        _ => None,
    });
    plan.unwrap()
}

#[test]
fn a_foreign_disk_becomes_the_image_byte_for_byte() {
    for sector in [512, 4096] {
        let sample = sample(sector, 1);
        let server = Server::start(&[&sample]);
        let disk = MemoryDisk::new(vec![0x5a; sample.disk.len()], sector);
        let (result, events) = run(&server, &sample, &disk);
        result.unwrap();
        assert_installed(&disk, &sample);
        let steps = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal];
        for step in steps {
            assert_eq!(ended(&events, step).0, Outcome::Done, "{step:?}");
        }
        let (image, present, fetch) = planned(&events);
        assert_eq!(present, 0, "a disk without a receipt is not even read");
        let (_, received, written) = ended(&events, Step::Transfer);
        assert_eq!(received, fetch);
        assert_eq!(received, server.take_pack_bytes());
        assert!(written >= image);
        assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64));
        assert!(events.iter().all(|event| event.kind != EventKind::Unknown));
    }
}

#[test]
fn a_file_becomes_the_image_too() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0x5a; sample.disk.len()]).unwrap();
    let disk = Disk::open(file.path(), 512, false).unwrap();
    run(&server, &sample, &disk).0.unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(receipt_on(&bytes).unwrap().state, ReceiptState::Installed);
    assert!(without_receipt(bytes) == sample.disk);
}

#[test]
fn what_is_there_already_is_not_fetched() {
    let (first, second) = (sample(512, 1), sample(512, 2));
    let server = Server::start(&[&first, &second]);
    let disk = old_disk();
    run(&server, &first, &disk).0.unwrap();
    let whole = server.take_pack_bytes();

    // Again the same: only what the wipe took, the boot-critical parts.
    let (result, events) = run(&server, &first, &disk);
    result.unwrap();
    let again = server.take_pack_bytes();
    assert!(again < 60_000, "{again} of {whole}");
    let (image, present, _) = planned(&events);
    assert!(image - present < 60_000);
    assert_installed(&disk, &first);

    // An update: about the 300 000 bytes that differ.
    run(&server, &second, &disk).0.unwrap();
    let update = server.take_pack_bytes();
    assert!((300_000..420_000).contains(&update), "{update} of {whole}");
    assert_installed(&disk, &second);
}

#[test]
fn a_disk_without_a_receipt_that_has_something_of_the_image_keeps_it() {
    let (first, second) = (sample(512, 1), sample(512, 2));
    let server = Server::start(&[&second]);
    // As `ingot write` leaves it.
    let disk = MemoryDisk::new(first.disk.clone(), 512);
    let (result, events) = run(&server, &second, &disk);
    result.unwrap();
    assert_installed(&disk, &second);
    let (image, present, fetch) = planned(&events);
    assert!(image - present < 420_000 && present > 1_000_000, "{present} of {image}");
    assert_eq!(server.take_pack_bytes(), fetch);
}

#[test]
fn an_update_writes_the_blocks_that_differ() {
    let first = sample(512, 1);
    let mut changed = first.disk.clone();
    (3 << 20..4 << 20).step_by(9001).for_each(|at| changed[at..at + 30].fill(0x11));
    let second = Sample::cut(changed, first.envelope.clone());
    let server = Server::start(&[&first, &second]);
    let disk = old_disk();
    run(&server, &first, &disk).0.unwrap();
    let (result, events) = run(&server, &second, &disk);
    result.unwrap();
    assert_installed(&disk, &second);
    let blocks = first.disk.chunks(4096).zip(second.disk.chunks(4096));
    let differ = blocks.filter(|(old, new)| old != new).count() as u64 * 4096;
    let (head, tail) = (1 << 19, 7 << 20);
    let ends = [&second.disk[..head], &second.disk[tail..]];
    let full = ends.iter().flat_map(|end| end.chunks(4096).filter(|block| *block != [0; 4096]));
    // This disk zeroes a range by writing all of it; the slot is 64 KiB.
    let begun = head as u64 + (1 << 20) + (1 << 16);
    let (_, _, written) = ended(&events, Step::Transfer);
    let most = begun + full.count() as u64 * 4096 + differ;
    assert!(differ > 400_000 && written <= most, "{written} for {differ}, at most {most}");
}

#[test]
fn what_cannot_be_read_of_the_old_disk_is_written_anew() {
    let (first, second) = (sample(512, 1), sample(512, 2));
    let server = Server::start(&[&first, &second]);
    let disk = old_disk();
    run(&server, &first, &disk).0.unwrap();
    disk.fail_reads((3 << 20) + 5000);
    run(&server, &second, &disk).0.unwrap();
    assert_installed(&disk, &second);
}

#[test]
fn a_slot_that_may_hold_a_receipt_stops_the_installation_before_the_first_write() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let disk = old_disk();
    disk.fail_reads(usize::try_from(receipt::START).unwrap());
    let (result, _) = run(&server, &sample, &disk);
    assert!(matches!(result, Err(InstallError::Plan(_))), "{result:?}");
    assert_eq!(disk.writes(), 0);
    let disk = old_disk();
    disk.write_at(receipt::START, b"INGOTRCP\x02\0\0\0").unwrap();
    let (result, _) = run(&server, &sample, &disk);
    assert!(matches!(result, Err(InstallError::Receipt(_))), "{result:?}");
    assert_eq!(disk.writes(), 1);
}

#[test]
fn an_equal_receipt_on_the_same_disk_needs_nothing() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let disk = old_disk();
    let why = |serial: Option<&str>, size_bytes, image| {
        let receipt = receipt_on(&disk.bytes_now());
        let serial = serial.map(str::to_owned);
        wire::Disk { size_bytes, serial, receipt, ..wire::Disk::default() }.not_installed(image)
    };
    let image = order(&sample).system.image;
    assert_eq!(why(Some("S-1"), DISK, image).unwrap(), "the disk has no receipt");
    run(&server, &sample, &disk).0.unwrap();
    assert_eq!(why(Some("S-1"), DISK, image), None);
    assert!(why(Some("S-2"), DISK, image).unwrap().contains("another disk"));
    assert!(why(None, DISK, image).unwrap().contains("another disk"));
    assert!(why(Some("S-1"), DISK + 512, image).unwrap().contains("another disk"));
    let other = crate::support::order(&crate::support::sample(512, 2)).system.image;
    assert!(why(Some("S-1"), DISK, other).unwrap().contains("test/image:1"));
}

#[test]
fn a_server_that_stumbles_delays_and_one_that_dies_fails_the_step() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let disk = old_disk();
    for fault in
        [Fault::Cut(12_345), Fault::Damage(20_000), Fault::Hang, Fault::Status(503), Fault::Garbage]
    {
        server.fault("/packs/", fault);
    }
    run(&server, &sample, &disk).0.unwrap();
    assert_installed(&disk, &sample);
    assert_eq!(server.faults_left(), 0);

    let disk = old_disk();
    // The first pack comes, then nothing any more.
    let second = sample.packs[1].0.to_string();
    (0..100).for_each(|_| server.fault(&second, Fault::Hang));
    let (result, events) = run(&server, &sample, &disk);
    assert!(matches!(result, Err(InstallError::Transfer(_))), "{result:?}");
    let (outcome, received, _) = ended(&events, Step::Transfer);
    match outcome {
        Outcome::Failed { cause } => assert!(cause.contains("gave up after"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert!(received > 0);
    assert_eq!(receipt_on(&disk.bytes_now()).unwrap().state, ReceiptState::Installing);
    assert!(disk.bytes_now()[..512].iter().all(|&byte| byte == 0), "nothing boots");

    // It comes back: only what is missing is fetched.
    server.behave();
    server.take_pack_bytes();
    run(&server, &sample, &disk).0.unwrap();
    assert_installed(&disk, &sample);
    let whole: usize = sample.packs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(server.take_pack_bytes() < whole as u64 * 9 / 10);
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_write() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let small = MemoryDisk::new(vec![7; sample.disk.len() - 512], 512);
    let other = MemoryDisk::new(vec![7; sample.disk.len()], 4096);
    for (disk, numbers) in [
        (&small, ["8388608", "8388096", "512 bytes are missing"]),
        (&other, ["sectors of 512", "sectors of 4096", "build the image"]),
    ] {
        let (result, events) = run(&server, &sample, disk);
        let text = result.unwrap_err().to_string();
        assert!(numbers.iter().all(|number| text.contains(number)), "{text}");
        assert!(matches!(ended(&events, Step::Plan).0, Outcome::Failed { .. }));
        assert_eq!(disk.writes(), 0);
    }
    assert_eq!(server.state.pack_requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_faulty_medium_is_noticed_and_named() {
    let sample = sample(512, 1);
    let server = Server::start(&[&sample]);
    let disk = old_disk();
    // In a chunk of the third partition, and in a hole.
    for (at, what) in [(3_500_000, "chunk blake3:"), (4_900_000, "zeros")] {
        run(&server, &sample, &disk).0.unwrap();
        disk.rot(at);
        let (result, events) = run(&server, &sample, &disk);
        let text = wire::chain(&result.unwrap_err());
        assert!(text.contains("region p3") && text.contains(what), "{text}");
        assert!(matches!(ended(&events, Step::Verify).0, Outcome::Failed { .. }));
        assert_eq!(receipt_on(&disk.bytes_now()).unwrap().state, ReceiptState::Installing);
        assert!(disk.bytes_now()[..512].iter().all(|&byte| byte == 0), "nothing boots");
        disk.rot(usize::MAX);
    }
}

#[test]
fn a_larger_disk_gets_its_table_moved_and_its_last_partition_grown() {
    for sector in [512, 4096] {
        let sample = sample(sector, 1);
        let server = Server::start(&[&sample]);
        let bytes = sample.disk.len() * 2 + 4096 * 3;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x5a; bytes]).unwrap();
        let disk = Disk::open(file.path(), sector, false).unwrap();
        run(&server, &sample, &disk).0.unwrap();

        let size = gpt::disk::LogicalBlockSize::try_from(u64::from(sector)).unwrap();
        let table = gpt::GptConfig::new()
            .logical_block_size(size)
            .only_valid_headers(true)
            .open(file.path())
            .unwrap();
        let last = bytes as u64 / u64::from(sector) - 1;
        let (primary, backup) = (table.primary_header().unwrap(), table.backup_header().unwrap());
        assert_eq!((primary.backup_lba, backup.current_lba), (last, last));
        assert_eq!(primary.crc32_parts, backup.crc32_parts);
        let parts = table.partitions();
        assert_eq!(parts.keys().copied().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(parts[&3].first_lba, (3 << 20) / u64::from(sector));
        assert_eq!(parts[&3].last_lba, primary.last_usable);
        assert_eq!(primary.last_usable, last - 1 - 128 * 128 / u64::from(sector));
        assert_eq!((parts[&3].name.as_str(), parts[&3].flags), ("part-3", 4));

        let content = std::fs::read(file.path()).unwrap();
        assert_eq!(receipt_on(&content).unwrap().disk_bytes, bytes as u64);
        assert!(content[1 << 20..7 << 20] == sample.disk[1 << 20..7 << 20]);
        assert!(content[7 << 20..8 << 20].iter().all(|&byte| byte == 0), "no old backup table");
        assert_eq!(content[..100], [0xeb; 100], "boot code is kept");
        assert!(sector != 512 || sfdisk_agrees(file.path()));
    }
}

/// The word of another implementation, which takes every file for one with
/// sectors of 512 bytes.
fn sfdisk_agrees(disk: &std::path::Path) -> bool {
    let mut sfdisk = std::process::Command::new("sfdisk");
    sfdisk.arg("--verify").arg(disk).output().expect("sfdisk of the package fdisk").status.success()
}

#[test]
fn a_pc_partition_table_goes_onto_a_larger_disk_with_all_that_the_image_has() {
    let mut sample = crate::support::mbr_sample();
    for grow in [None, Some(1)] {
        sample.envelope.grow = grow;
        let image = Sample::cut(sample.disk.clone(), sample.envelope.clone());
        let server = Server::start(&[&image]);
        let bytes = image.disk.len() * 2 + 4096 * 3;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x5a; bytes]).unwrap();
        let disk = Disk::open(file.path(), 512, false).unwrap();
        run(&server, &image, &disk).0.unwrap();

        let content = std::fs::read(file.path()).unwrap();
        assert_eq!(receipt_on(&content).unwrap().disk_bytes, bytes as u64);
        let sectors = u32::from_le_bytes(content[458..462].try_into().unwrap());
        let grown = u32::try_from(bytes / 512 - 2048).unwrap();
        assert_eq!(sectors, if grow.is_some() { grown } else { 6 * 2048 });
        assert!(content[..458] == image.disk[..458] && content[462..512] == image.disk[462..512]);
        // From behind the receipt up to the image's last byte, behind the partition too.
        assert!(content[1 << 20..8 << 20] == image.disk[1 << 20..8 << 20]);
        assert!(sfdisk_agrees(file.path()));
    }
}

#[test]
fn an_image_that_needs_the_receipts_place_is_refused() {
    let mut sample = sample(512, 1);
    let mut disk = sample.disk.clone();
    disk[530_000] = 1;
    let server = Server::start(&[&Sample::cut(disk.clone(), sample.envelope.clone())]);
    let kept = Sample::cut(disk, sample.envelope.clone());
    let target = old_disk();
    let (result, _) = run(&server, &kept, &target);
    let text = wire::chain(&result.unwrap_err());
    assert!(text.contains("where the receipt goes"), "{text}");

    sample.envelope.table = None;
    sample.envelope.grow = None;
    sample.envelope.regions.iter_mut().for_each(|region| region.partition = None);
    let server = Server::start(&[]);
    let target = old_disk();
    let (result, _) = run(&server, &sample, &target);
    assert!(matches!(result, Err(InstallError::Fit(_))), "{result:?}");
    assert_eq!(target.writes(), 0);
}
