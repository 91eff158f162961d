//! A frame from a pack: header, payload, its chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(opened) = store_format::frame::open(bytes) {
        let _ = opened.chunks().count();
    }
});
