//! Where an image's chunks are, as a server tells it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(locations) = store_format::Locations::decode(bytes) {
        assert_eq!(locations.encode(), bytes);
    }
});
