//! Blocks that differ.

use store_format::blocks::{BLOCK, differing};

#[test]
fn blocks_are_those_of_the_disk_and_neighbours_are_one() {
    let old = vec![0; 5 * BLOCK];
    let mut new = old.clone();
    for (byte, expected) in
        [(0, 0..96), (95, 0..96), (96, 96..96 + BLOCK), (5 * BLOCK - 1, 96 + 4 * BLOCK..5 * BLOCK)]
    {
        new[byte] = 1;
        let found = differing(&old, &new, 2 * BLOCK as u64 + 4000);
        assert_eq!(found.as_slice(), std::slice::from_ref(&expected), "{byte}");
        new[byte] = 0;
    }
    assert!(differing(&old, &new, 4000).is_empty());
    new[90..200].fill(1);
    new[5 * BLOCK - 1] = 1;
    assert_eq!(differing(&old, &new, 4000), [0..96 + BLOCK, 96 + 4 * BLOCK..5 * BLOCK]);
}
