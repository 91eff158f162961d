//! FAT12, FAT16, FAT32 (Microsoft, "FAT File System Specification", 2000).

use crate::fields::{u16_at, u32_at};
use crate::map::{Edges, Ranges};
use crate::{Kind, Map, NoMap, ReadAt};

/// Sector 0 has all that is asked for in its first 512 bytes.
const BOOT: usize = 512;
/// Bytes of the table that are read at a time; a multiple of 3 and of 4, so
/// that no entry is torn.
const WINDOW: usize = 192 << 10;
/// Clusters from here on make it FAT16 (the specification's "FAT type
/// determination").
const FAT16_CLUSTERS: u64 = 4085;

/// Where everything is, in bytes.
#[derive(Debug)]
struct Layout {
    bits: u8,
    table: u64,
    data: u64,
    cluster: u64,
    clusters: u64,
}

pub(crate) fn map(partition: &(impl ReadAt + ?Sized), bytes: u64) -> Result<Map, NoMap> {
    let layout = layout(partition, bytes)?;
    let mut table = Table { partition, layout: &layout, window: Vec::new(), first: 0 };
    check_clean(&mut table)?;
    let (mut free, mut edges) = (Ranges::default(), Edges::default());
    edges.add(&(0..layout.data));
    let mut last = None;
    for number in 2..layout.clusters + 2 {
        let next = table.entry(number)?;
        let start = layout.data + (number - 2) * layout.cluster;
        let place = start..start + layout.cluster;
        match next {
            0 => free.add(place).ok_or(unreliable("it has too many gaps"))?,
            // A file goes on where its last cluster pointed here.
            _ if last == Some(number) => {}
            _ => edges.add(&(start..start)),
        }
        last = Some(u64::from(next));
    }
    let free = free.merged();
    free.iter().for_each(|range| edges.add(range));
    Ok(Map { kind: Kind::Fat, free, edges: edges.sorted() })
}

fn layout(partition: &(impl ReadAt + ?Sized), bytes: u64) -> Result<Layout, NoMap> {
    let mut boot = [0; BOOT];
    if bytes < BOOT as u64 {
        return Err(NoMap::Unknown);
    }
    partition.read_at(&mut boot, 0)?;
    let jump = matches!((boot[0], boot[2]), (0xeb, 0x90) | (0xe9, _));
    let sector = u64::from(u16_at(&boot, 11));
    let per_cluster = u64::from(boot[13]);
    let (reserved, copies) = (u64::from(u16_at(&boot, 14)), u64::from(boot[16]));
    let is_fat = jump
        && boot[510..] == [0x55, 0xaa]
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && matches!(copies, 1 | 2)
        && boot[21] >= 0xf0;
    if !is_fat {
        return Err(NoMap::Unknown);
    }
    let either = |short: u16, long: u32| match short {
        0 => u64::from(long),
        short => u64::from(short),
    };
    let sectors = either(u16_at(&boot, 19), u32_at(&boot, 32));
    let table_sectors = either(u16_at(&boot, 22), u32_at(&boot, 36));
    let root = (u64::from(u16_at(&boot, 17)) * 32).div_ceil(sector);
    let data_sector = reserved + copies * table_sectors + root;
    if sectors * sector > bytes || data_sector >= sectors || table_sectors == 0 {
        return Err(unreliable("it does not fit its partition"));
    }
    let clusters = (sectors - data_sector) / per_cluster;
    // As Linux has it: FAT32s with few clusters are common on small ESPs.
    let bits = match u16_at(&boot, 22) {
        0 => 32,
        _ if clusters >= FAT16_CLUSTERS => 16,
        _ => 12,
    };
    let needed = ((clusters + 2) * u64::from(bits)).div_ceil(8);
    if needed > table_sectors * sector {
        return Err(unreliable("its table is too short"));
    }
    Ok(Layout {
        bits,
        table: reserved * sector,
        data: data_sector * sector,
        cluster: per_cluster * sector,
        clusters,
    })
}

fn unreliable(why: &'static str) -> NoMap {
    NoMap::Unreliable { kind: Kind::Fat, why }
}

/// FAT16 and FAT32 note in entry 1 that they were not unmounted, or failed.
fn check_clean<R: ReadAt + ?Sized>(table: &mut Table<'_, R>) -> Result<(), NoMap> {
    let clean = match table.layout.bits {
        12 => return Ok(()),
        16 => 0xc000,
        _ => 0x0c00_0000,
    };
    match table.entry(1)? & clean == clean {
        true => Ok(()),
        false => Err(unreliable("it was not unmounted, or has errors")),
    }
}

/// The first copy of the table, read front to back.
struct Table<'a, R: ?Sized> {
    partition: &'a R,
    layout: &'a Layout,
    window: Vec<u8>,
    /// Entry that the window begins with.
    first: u64,
}

impl<R: ReadAt + ?Sized> Table<'_, R> {
    fn entry(&mut self, number: u64) -> Result<u32, NoMap> {
        let bits = usize::from(self.layout.bits);
        let per_window = (WINDOW * 8 / bits) as u64;
        let first = number - number % per_window;
        if self.window.is_empty() || first != self.first {
            let left = self.layout.clusters + 2 - first;
            // Both bounds are small.
            let len = ((left.min(per_window) as usize) * bits).div_ceil(8);
            self.window.resize(len, 0);
            let at = self.layout.table + first * bits as u64 / 8;
            self.partition.read_at(&mut self.window, at)?;
            self.first = first;
        }
        let index = (number - first) as usize;
        Ok(match bits {
            12 => {
                let pair = u32::from(u16_at(&self.window, index * 3 / 2));
                if index.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }
            }
            16 => u32::from(u16_at(&self.window, index * 2)),
            // The upper four bits are reserved.
            _ => u32_at(&self.window, index * 4) & 0x0fff_ffff,
        })
    }
}
