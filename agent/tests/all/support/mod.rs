//! Small images with real partition tables, disks that fail, and an agent's surroundings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::console::Console;
use agent::events::EventLog;
use agent::install::Member;
use agent::report::Report;
use agent::target::Target;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;
use store_format::{Envelope, GptPartition, MbrPartition, PartitionTable, Region, envelope};
use store_remote::{Backoff, Client, Options, Timing};
use wire::{DeployOrder, Digest, Event, MachineId};

#[path = "../../../../store/remote/tests/server/mod.rs"]
pub mod server;
pub mod store;
pub mod system;
pub mod target;

pub use server::{Sample, Server};

/// Does not wait.
#[derive(Default)]
pub struct NoWait(AtomicU64);

impl Timing for NoWait {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn sleep(&self, _: Duration) {}
    fn random(&self) -> u64 {
        self.0.fetch_add(7, Ordering::Relaxed)
    }
}

/// Bytes of the small image's disk.
pub const DISK: u64 = 8 << 20;

/// A GPT image with two partitions, numbered 1 and 3: content, holes, and
/// the same chunks in several places. `seed` makes images differ in a part.
pub fn sample(sector: u32, seed: u8) -> Sample {
    let mut disk = vec![0; usize::try_from(DISK).unwrap()];
    let size = LogicalBlockSize::try_from(u64::from(sector)).unwrap();
    let sectors = u32::try_from(DISK / u64::from(sector)).unwrap();
    let mbr = ProtectiveMBR::with_lb_size(sectors - 1);
    mbr.overwrite_lba0(&mut Cursor::new(&mut disk[..])).unwrap();
    disk[..100].fill(0xeb);
    let mut device = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(size)
        .create_from_device(Cursor::new(&mut disk[..]), Some(guid(9).parse().unwrap()))
        .unwrap();
    let lba = |mib: u64| (mib << 20) / u64::from(sector);
    let part = |number: u32, first: u64, end: u64, kind| gpt::partition::Partition {
        part_type_guid: kind,
        part_guid: guid(number).parse().unwrap(),
        first_lba: lba(first),
        last_lba: lba(end) - 1,
        flags: 4,
        name: format!("part-{number}"),
    };
    let parts =
        [(1, part(1, 1, 3, partition_types::EFI)), (2, part(3, 3, 7, partition_types::LINUX_FS))];
    device.update_partitions(parts.into_iter().collect()).unwrap();
    device.write().unwrap();

    // The crate packs entries; an image may have gaps in its numbers.
    let table = 2 * usize::try_from(sector).unwrap();
    let backup = disk.len() - 128 * 128 - usize::try_from(sector).unwrap();
    for at in [table, backup] {
        disk.copy_within(at + 128..at + 256, at + 256);
        disk[at + 128..at + 256].fill(0);
    }
    resum(&mut disk, sector);
    fill(&mut disk, seed);

    let envelope = Envelope {
        format: envelope::FORMAT.into(),
        disk_bytes: DISK,
        sector_bytes: sector,
        table: Some(PartitionTable::Gpt {
            disk_guid: guid(9),
            partitions: vec![row(1, lba(1), lba(3)), row(3, lba(3), lba(7))],
        }),
        regions: vec![
            region("head", 0, 1, None),
            region("p1", 1, 3, Some(1)),
            region("p3", 3, 7, Some(3)),
            region("tail", 7, 8, None),
        ],
        grow: Some(3),
        boot: None,
        configuration: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    Sample::cut(disk, envelope)
}

/// An image with a PC partition table, one primary partition, and something
/// behind it.
pub fn mbr_sample() -> Sample {
    let mut disk = vec![0; usize::try_from(DISK).unwrap()];
    fill(&mut disk, 1);
    disk[..100].fill(0xeb);
    let (first, sectors) = (2048, 6 * 2048);
    let record = &mut disk[446..462];
    record[4] = 0x83;
    record[8..12].copy_from_slice(&u32::to_le_bytes(first));
    record[12..].copy_from_slice(&u32::to_le_bytes(sectors));
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[(7 << 20) + 100..8 << 20].fill(0xee);
    let (first_lba, sectors) = (first.into(), sectors.into());
    let row = MbrPartition { number: 1, kind: 0x83, active: false, first_lba, sectors };
    let envelope = Envelope {
        format: envelope::FORMAT.into(),
        disk_bytes: DISK,
        sector_bytes: 512,
        table: Some(PartitionTable::Mbr { signature: "00000000".into(), partitions: vec![row] }),
        regions: vec![
            region("head", 0, 1, None),
            region("p1", 1, 7, Some(1)),
            region("tail", 7, 8, None),
        ],
        grow: None,
        boot: None,
        configuration: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    Sample::cut(disk, envelope)
}

/// Content: noise that differs by seed in its first part only, holes, and a
/// copy of some chunks.
fn fill(disk: &mut [u8], seed: u8) {
    let mib = 1 << 20;
    let mut noise = blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof();
    noise.fill(&mut disk[mib..mib + 300_000]);
    let mut noise = blake3::Hasher::new().finalize_xof();
    noise.fill(&mut disk[3 * mib..4 * mib]);
    noise.fill(&mut disk[5 * mib + 777..5 * mib + 400_000]);
    disk.copy_within(3 * mib..3 * mib + 200_000, 6 * mib);
    // What a boot loader keeps behind the table, and a gap without a partition.
    disk[40_000..50_000].fill(seed + 1);
    disk[700_000..700_500].fill(3);
}

/// A GUID's text, all of one digit.
fn guid(number: u32) -> String {
    [8, 4, 4, 4, 12].map(|digits| number.to_string().repeat(digits)).join("-")
}

fn row(number: u32, first_lba: u64, end_lba: u64) -> GptPartition {
    GptPartition {
        number,
        type_guid: partition_types::LINUX_FS.guid.to_string(),
        guid: guid(number),
        name: format!("part-{number}"),
        flags: 4,
        first_lba,
        last_lba: end_lba - 1,
    }
}

fn region(name: &str, from_mib: u64, to_mib: u64, partition: Option<u32>) -> Region {
    let (start, end) = (from_mib << 20, to_mib << 20);
    Region { name: name.into(), start, bytes: end - start, partition, digest: Digest([0; 32]) }
}

/// Computes both headers' sums again after their entries were moved.
fn resum(disk: &mut [u8], sector: u32) {
    let size = LogicalBlockSize::try_from(u64::from(sector)).unwrap();
    let header = gpt::header::read_header_from_arbitrary_device(&mut Cursor::new(&disk[..]), size);
    // Its sum over the entries is wrong, and is not looked at here.
    let header = header.unwrap();
    let mut builder = gpt::header::HeaderBuilder::from_header(&header);
    let mut device = Cursor::new(disk);
    builder.primary(true).build(size).unwrap().write_primary(&mut device, size).unwrap();
    builder.primary(false).build(size).unwrap().write_backup(&mut device, size).unwrap();
}

pub fn order(sample: &Sample) -> DeployOrder {
    DeployOrder {
        run: "r-1".parse().unwrap(),
        attempt: 1,
        system: wire::ImageOrder {
            image: sample.digest(),
            reference: "test/image:1".parse().unwrap(),
            disk: wire::DiskChoice::default(),
        },
        others: Vec::new(),
        start: wire::Start::Reboot,
    }
}

/// An image on its way to a disk.
pub fn member<'a>(
    order: &'a wire::ImageOrder,
    sample: &Sample,
    target: &'a dyn Target,
) -> Member<'a> {
    Member {
        order,
        envelope: sample.envelope.clone(),
        disk: "test disk".into(),
        identity: Some("S-1".into()),
        target,
    }
}

pub fn machine() -> MachineId {
    "m-1".parse().unwrap()
}

pub fn client(server: &Server) -> Client {
    client_of(&server.base)
}

/// A client of the store at an address.
pub fn client_of(base: &str) -> Client {
    let options = Options {
        idle: Duration::from_secs(2),
        tries: 6,
        tries_damaged: 3,
        backoff: Backoff { first: Duration::from_millis(1), max: Duration::from_millis(1) },
        ..Options::default()
    };
    Client::new(base, options, Arc::new(NoWait::default())).unwrap()
}

/// A report whose console is a file.
pub fn report(console: &Path) -> Report {
    let sink = File::options().create(true).append(true).open(console).unwrap();
    let log = EventLog::new("boot".into());
    log.set_machine(machine());
    Report {
        console: Arc::new(Console::to(vec![sink])),
        log: Arc::new(log),
        timing: Arc::new(NoWait::default()),
    }
}

/// All events so far, each once.
pub fn events(report: &Report) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(batch) = report.log.batch() {
        report.log.acknowledge(batch.events.last().unwrap().seq);
        events.extend(batch.events);
    }
    events
}
