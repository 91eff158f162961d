//! An image's chunk table as it is kept; what is accepted encodes to the same bytes, and
//! is a table for those who read it page by page.
#![no_main]

use store_format::table::{KeptTable, Outline};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match KeptTable::decode(bytes) {
        Ok(KeptTable::Whole(table)) => {
            assert_eq!(table.encode(), bytes);
            // What is longer than 64 bits can say in all is no disk's.
            if let Ok(outline) = Outline::read(bytes) {
                assert_eq!(outline.image, table.image);
                for page in &outline.pages {
                    let range = page.range.start as usize..page.range.end as usize;
                    page.decode(&bytes[range]).unwrap();
                }
            }
        }
        Ok(KeptTable::Derived(derived)) => assert_eq!(derived.encode(), bytes),
        Err(_) => {}
    }
});
