//! A chunk frame from a pack: header, then payload against it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = store_format::frame::Header::decode(bytes) {
        let payload = bytes.get(store_format::frame::Header::LEN..).unwrap_or_default();
        let mut plain = Vec::new();
        let _ = store_format::frame::open(&header, payload, &mut plain);
    }
});
