//! A whole pack: header, trailer, footer table.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = store_format::pack::entries(bytes);
});
