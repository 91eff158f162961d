//! A partition: superblock, descriptors, bitmaps, inodes; or a FAT.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = store_filesystems::map(bytes, bytes.len() as u64);
});
