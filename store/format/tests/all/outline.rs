//! Tables that are written and read a part at a time.
use std::io::{Cursor, Seek};

use crate::derived::tables;
use crate::samples::{envelope, table};
use proptest::prelude::*;
use store_format::table::{Outline, PAGE_EXTENTS, TableError, TableWriter};
use store_format::{ChunkTable, DecodeError, Extent, digest_of};

/// What the pages of a table have, region by region.
fn extents(outline: &Outline, bytes: &[u8]) -> Vec<(u64, Extent)> {
    let page = |page: &store_format::table::Page| {
        page.decode(&bytes[page.range.start as usize..page.range.end as usize]).unwrap()
    };
    outline.pages.iter().flat_map(page).collect()
}

fn placed(table: &ChunkTable) -> Vec<(u64, Extent)> {
    let mut at = 0;
    let place = |extent: &Extent| {
        at += extent.bytes();
        (at - extent.bytes(), *extent)
    };
    table.regions.iter().flatten().map(place).collect()
}

fn written(table: &ChunkTable) -> Vec<u8> {
    let mut writer = TableWriter::new(Cursor::new(Vec::new()), table.regions.len()).unwrap();
    for region in &table.regions {
        for extent in region {
            match *extent {
                Extent::Hole { bytes } if bytes > 1 => {
                    writer.push(Extent::Hole { bytes: 1 }).unwrap();
                    writer.push(Extent::Hole { bytes: bytes - 1 }).unwrap();
                }
                extent => writer.push(extent).unwrap(),
            }
        }
        writer.end_region().unwrap();
    }
    let mut out = writer.finish(&table.image).unwrap();
    assert_eq!(out.stream_position().unwrap(), out.get_ref().len() as u64);
    out.into_inner()
}

proptest! {
    #[test]
    fn what_is_written_bit_by_bit_is_the_table_as_it_is_encoded(table in tables()) {
        prop_assert_eq!(written(&table), table.encode());
    }

    #[test]
    fn a_table_is_the_same_in_pages(table in tables()) {
        let bytes = table.encode();
        let outline = Outline::read(&bytes[..]).unwrap();
        prop_assert_eq!((outline.image, outline.name), (table.image, digest_of(&bytes)));
        prop_assert_eq!(outline.len, bytes.len() as u64);
        prop_assert_eq!(extents(&outline, &bytes), placed(&table));
    }

    /// Both readers take the same bytes, whatever these are.
    #[test]
    fn an_outline_is_read_of_what_is_a_table(
        table in tables(), at in any::<prop::sample::Index>(), with in any::<[u8; 4]>(),
        sum in any::<bool>(), cut in any::<prop::sample::Index>(), whole in any::<bool>(),
    ) {
        let mut bytes = table.encode();
        let at = at.index(bytes.len());
        for (byte, new) in bytes[at..].iter_mut().zip(with) {
            *byte = new;
        }
        if sum {
            let (body, last) = bytes.split_last_chunk_mut::<32>().unwrap();
            *last = digest_of(body).0;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        let outline = Outline::read(&bytes[..]);
        match ChunkTable::decode(&bytes) {
            Ok(table) => {
                let outline = outline.unwrap();
                prop_assert_eq!(extents(&outline, &bytes), placed(&table));
                prop_assert_eq!(outline.check(&envelope()), table.check(&envelope()));
            }
            Err(error) => prop_assert!(outline.is_err(), "{}", error),
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Outline::read(&bytes[..]).is_err());
        let start = [&table().encode()[..12], &bytes].concat();
        prop_assert!(Outline::read(&start[..]).is_err());
    }
}

#[test]
fn pages_have_a_limit_and_what_stands_in_them_is_checked_again() {
    const PAGE: u64 = PAGE_EXTENTS as u64;
    let chunk = |n: u64| Extent::Chunk { id: digest_of(&n.to_le_bytes()), bytes: 7 };
    let regions = [2 * PAGE + 1, 0, 1, PAGE];
    let regions = regions.map(|extents| (0..extents).map(chunk).collect());
    let table = ChunkTable { image: digest_of(b""), regions: regions.into() };
    let mut bytes = table.encode();
    let outline = table.outline().unwrap();
    let lens = outline.pages.iter().map(|page| (page.disk.end - page.disk.start) / 7);
    assert_eq!(lens.collect::<Vec<_>>(), [PAGE, PAGE, 1, 1, PAGE]);
    assert_eq!(outline.disk_bytes(), 7 * (3 * PAGE + 2));
    let page = &outline.pages[1];
    bytes[page.range.start as usize + 9] ^= 1;
    let found = page.decode(&bytes[page.range.start as usize..page.range.end as usize]);
    assert!(matches!(found, Err(DecodeError::Checksum { .. })), "{found:?}");
}

#[test]
fn a_table_that_fits_its_image_does_so_as_an_outline() {
    assert_eq!(table().outline().unwrap().check(&envelope()), Ok(()));
    let mut other = table();
    other.regions[2].clear();
    let error = other.outline().unwrap().check(&envelope()).unwrap_err();
    assert!(error.to_string().contains("another length"), "{error}");
}

#[test]
fn a_number_of_extents_that_is_too_large_is_said_before_they_are_read() {
    let mut bytes = table().encode();
    bytes[52..60].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = Outline::read(&bytes[..]).unwrap_err();
    let TableError::Decode(DecodeError::TooMany { count, .. }) = error else { panic!("{error}") };
    assert_eq!(count, u64::MAX);
}
