//! A disk of very many chunks that takes little room: partitions with a FAT in
//! which each file has one sector, and is a chunk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

const SECTOR: u64 = 512;
/// Chunks of a partition: what is known of the files of one at a time is small.
pub const PARTITION_CHUNKS: u64 = 100_000;
const TABLE_SECTORS: u64 = ((PARTITION_CHUNKS + 2) * 4).div_ceil(SECTOR);
/// Boot sector, table, data, and up to the next MiB.
const PARTITION_SECTORS: u64 = (1 + TABLE_SECTORS + PARTITION_CHUNKS).next_multiple_of(2048);

/// Makes a disk with so many partitions, at most 128. No two chunks are alike,
/// neither here nor where `first` is another million.
pub fn make(path: &Path, partitions: u64, first: u64) {
    let mut file = File::create_new(path).unwrap();
    file.set_len((4096 + partitions * PARTITION_SECTORS) * SECTOR).unwrap();
    for number in 0..partitions {
        file.seek(SeekFrom::Start(start(number) * SECTOR)).unwrap();
        let mut file = BufWriter::new(&file);
        fat(&mut file, first + number * PARTITION_CHUNKS);
        file.flush().unwrap();
    }
    let rows = (0..partitions).map(|number| (number as u32 + 1, row(number))).collect();
    table(path, rows);
}

fn start(number: u64) -> u64 {
    2048 + number * PARTITION_SECTORS
}

fn row(number: u64) -> gpt::partition::Partition {
    gpt::partition::Partition {
        part_type_guid: gpt::partition_types::BASIC,
        part_guid: format!("6c4bd9bf-0f3b-4a39-8a92-{number:012x}").parse().unwrap(),
        first_lba: start(number),
        last_lba: start(number + 1) - 1,
        flags: 0,
        name: String::new(),
    }
}

fn table(path: &Path, rows: BTreeMap<u32, gpt::partition::Partition>) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let guid = "6c4bd9bf-0f3b-4a39-8a92-a4e70c1fb4a2".parse().unwrap();
    let config = gpt::GptConfig::new().writable(true);
    let mut disk = config.create_from_device(file, Some(guid)).unwrap();
    disk.update_partitions(rows).unwrap();
    let mut file = disk.write().unwrap();
    gpt::mbr::ProtectiveMBR::new().overwrite_lba0(&mut file).unwrap();
}

fn fat(out: &mut impl Write, first: u64) {
    let mut boot = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| boot[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(11, &512_u16.to_le_bytes());
    // One sector to a cluster, one reserved sector, one table.
    put(13, &[1, 1, 0, 1]);
    put(21, &[0xf8]);
    put(32, &u32::try_from(1 + TABLE_SECTORS + PARTITION_CHUNKS).unwrap().to_le_bytes());
    put(36, &u32::try_from(TABLE_SECTORS).unwrap().to_le_bytes());
    put(510, &[0x55, 0xaa]);
    out.write_all(&boot).unwrap();
    // Every cluster is the last of its file.
    let ends = 0x0fff_ffff_u32.to_le_bytes().repeat(128);
    (0..TABLE_SECTORS).for_each(|_| out.write_all(&ends).unwrap());
    for number in first..first + PARTITION_CHUNKS {
        let text = (number + 1).to_le_bytes().repeat(64);
        out.write_all(&text).unwrap();
    }
}
