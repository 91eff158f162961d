//! What an upload sends beside frames.
#![no_main]

use store_format::upload;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(ids) = upload::decode_ids(bytes) {
        assert_eq!(upload::encode_ids(&ids), bytes);
    }
    if let Ok((envelope, table)) = upload::decode_commit(bytes) {
        assert_eq!(upload::encode_commit(&envelope.to_bytes(), &table.encode()), bytes);
    }
});
