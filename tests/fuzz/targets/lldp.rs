//! What a neighbour sends to a network card.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = agent::net::lldp::read(bytes);
});
