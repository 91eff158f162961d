//! A datagram on the DHCP port.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = bootsvc_proto::dhcp::Request::decode(bytes);
    if let Ok(packet) = bootsvc_proto::dhcp::Packet::decode(bytes) {
        let _ = packet.encode(1500);
    }
});
