//! An index segment: opened, searched, verified.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = store_format::segment::verify(bytes);
    if let Ok(segment) = store_format::segment::Segment::open(bytes) {
        let _ = segment.get(&wire::Digest([0x55; 32]));
        segment.iter().for_each(drop);
        let merged = store_format::segment::merge(&[segment, segment], |_| true);
        let _ = store_format::segment::Segment::open(&merged).expect("what is written is read");
    }
});
