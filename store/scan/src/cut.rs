//! Where content is cut. Another rule gives other chunks, and content would no
//! longer share them with what existing stores have.

use fastcdc::v2020::{FastCDC, Normalization};

/// Smallest chunk, unless a region or the data before a hole is shorter.
const CHUNK_MIN: usize = 16 << 10;
const CHUNK_AVERAGE: usize = 64 << 10;
/// Largest chunk. A cut depends on no more bytes than that.
pub(crate) const CHUNK_MAX: usize = 256 << 10;
const NORMALIZATION: Normalization = Normalization::Level2;
/// Stores do not stir the gear table.
const SEED: u64 = 0;

/// Length of the first chunk of some bytes. If these are fewer than
/// [`CHUNK_MAX`], nothing may follow them.
pub(crate) fn cut(bytes: &[u8]) -> usize {
    cut_by(bytes, [CHUNK_MIN, CHUNK_AVERAGE, CHUNK_MAX], SEED).1
}

/// Hash at the first cut, and where it is.
fn cut_by(bytes: &[u8], [min, average, max]: [usize; 3], seed: u64) -> (u64, usize) {
    let rule = FastCDC::with_level_and_seed(bytes, min, average, max, NORMALIZATION, seed);
    rule.cut(0, bytes.len())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const PICTURE: &[u8] = include_bytes!("../tests/fixtures/SekienAkashita.jpg");
    const GOLDEN: &str = include_str!("../tests/fixtures/cuts.txt");

    /// `fastcdc2020_test_vectors.txt` of the Remote Execution API, v2: length,
    /// first bytes of the chunk's SHA-256, hash at the cut.
    type Vector = (usize, &'static str, u64);

    const SEED_0: [Vector; 6] = [
        (19186, "0f9efa589121d5d9", 17583755766661134474),
        (19279, "c7c86a165573c164", 4098594969649699419),
        (17354, "bc88521e28a8b447", 2365586132076908760),
        (16387, "4b8dac2652e4685c", 16009206469796846404),
        (19940, "c0a7062da6f2386c", 2473608525189754172),
        (17320, "7fa5b12134dc75cd", 2504464741100432583),
    ];

    const SEED_666: [Vector; 6] = [
        (17635, "cb3a9d80a3569772", 17021115692437263050),
        (17334, "d758c6b7b0b7eef1", 8231525949846907466),
        (19136, "24846aefd89e5105", 10944310959829698982),
        (17467, "efa785e1fefb49f1", 13602876513398592944),
        (23593, "a2f557bdd8d40d8f", 2945079350535657389),
        (14301, "e131100b4a7147cc", 8981594897574481255),
    ];

    #[test]
    fn cuts_are_those_of_the_published_vectors() {
        for (seed, vectors) in [(0, SEED_0), (666, SEED_666)] {
            let mut rest = PICTURE;
            for (len, name, hash) in vectors {
                // Theirs is 65535; the crate takes even lengths, and no chunk comes near.
                let (found_hash, found_len) = cut_by(rest, [4096, 16384, 65534], seed);
                assert_eq!(found_len, len, "seed {seed}");
                // The end of everything is no cut, and releases of the crate
                // differ in whether its last byte goes into the hash there.
                if len < rest.len() {
                    assert_eq!(found_hash, hash, "seed {seed}");
                }
                let (chunk, after) = rest.split_at(len);
                assert_eq!(hex::encode(&Sha256::digest(chunk)[..8]), name);
                rest = after;
            }
            assert!(rest.is_empty());
        }
    }

    /// Bytes by a rule from their place; 2 MiB and a bit.
    fn made(byte: impl Fn(usize) -> u8) -> Vec<u8> {
        (0..(2 << 20) + 4321).map(byte).collect()
    }

    fn noise(seed: u64) -> Vec<u8> {
        let mut bytes = made(|_| 0);
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn contents() -> [(&'static str, Vec<u8>); 9] {
        let random = noise(1);
        let text: Vec<u8> = (0..)
            .flat_map(|n: u32| format!("line {n}, {}\n", n % 97).into_bytes())
            .take(2 << 20)
            .collect();
        let mut islands = made(|_| 0);
        for at in (0..islands.len() - 700).step_by(50_000) {
            islands[at..at + 700].copy_from_slice(&random[at..at + 700]);
        }
        [
            ("two-values", random.iter().map(|byte| byte & 1).collect()),
            ("mostly-zero", random.iter().map(|b| if *b < 250 { 0 } else { *b }).collect()),
            ("noise", noise(2)),
            ("text", text),
            ("zeros", made(|_| 0)),
            ("ones", made(|_| 0xff)),
            ("period-251", made(|at| (at % 251) as u8)),
            ("period-40000", made(|at| random[at % 40_000])),
            ("islands", islands),
        ]
    }

    /// Lengths of all chunks, each cut from no more bytes than the longest has.
    fn cuts(mut rest: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while !rest.is_empty() {
            let len = cut(&rest[..rest.len().min(CHUNK_MAX)]);
            assert_eq!(len, cut(rest), "a cut depends on what is far behind it");
            assert!(len == rest.len() || (CHUNK_MIN..=CHUNK_MAX).contains(&len), "{len}");
            lens.push(len);
            rest = &rest[len..];
        }
        lens
    }

    #[test]
    fn cuts_are_those_of_every_release() {
        let mut found = String::new();
        for (name, bytes) in contents() {
            let lens: Vec<String> = cuts(&bytes).iter().map(usize::to_string).collect();
            found += &format!("{name}: {}\n", lens.join(" "));
        }
        assert!(
            found == GOLDEN,
            "content would no longer deduplicate with existing stores: it is cut at\n{found}"
        );
    }
}
