//! The receipt slot of a disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = agent::receipt::decode(bytes);
});
