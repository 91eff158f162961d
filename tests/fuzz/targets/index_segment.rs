//! An index segment: opened, searched, verified.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = store_format::segment::verify(bytes);
    if let Ok(segment) = store_format::segment::Segment::open(bytes) {
        let _ = segment.get(&wire::Digest([0x55; 32]));
        segment.iter().for_each(drop);
        let mut merged = Vec::new();
        let take = |piece: Vec<u8>| Ok::<_, std::convert::Infallible>(merged.extend(piece));
        let Ok(()) = store_format::segment::merge(&[segment, segment], |_| true, || (), take);
        let _ = store_format::segment::Segment::open(&merged).expect("what is written is read");
    }
});
