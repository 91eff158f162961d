//! An image's chunk table as it is kept; what is accepted encodes to the same bytes.
#![no_main]

use store_format::table::KeptTable;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match KeptTable::decode(bytes) {
        Ok(KeptTable::Whole(table)) => assert_eq!(table.encode(), bytes),
        Ok(KeptTable::Derived(derived)) => assert_eq!(derived.encode(), bytes),
        Err(_) => {}
    }
});
