//! What a machine says of itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(check_in) = serde_json::from_slice::<wire::api::CheckIn>(bytes) {
        let _ = check_in.inventory.facts();
    }
});
