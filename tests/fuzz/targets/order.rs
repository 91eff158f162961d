//! What a controller tells a machine.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<wire::api::CheckedIn>(bytes);
});
