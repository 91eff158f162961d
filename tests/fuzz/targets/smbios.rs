//! A machine's SMBIOS tables.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = agent::inventory::smbios::read(bytes);
});
