//! An image's chunk table; what is accepted encodes to the same bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(table) = store_format::ChunkTable::decode(bytes) {
        assert_eq!(table.encode(), bytes);
    }
});
