//! Option 82 of a DHCP message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let info = bootsvc_proto::dhcp::RelayInfo::decode(bytes);
    for id in [info.circuit_id, info.remote_id, info.subscriber_id].into_iter().flatten() {
        let _ = id.to_string();
    }
});
