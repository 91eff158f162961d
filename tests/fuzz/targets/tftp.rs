//! A datagram on the TFTP port.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = bootsvc_proto::tftp::Packet::decode(bytes);
});
