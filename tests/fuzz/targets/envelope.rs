//! An image's envelope; what is accepted encodes to the same bytes' meaning.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = store_format::Envelope::from_bytes(bytes) {
        let again = store_format::Envelope::from_bytes(&envelope.to_bytes());
        assert!(again.is_ok_and(|again| again == envelope));
    }
});
