//! What is good in a damaged pack.

use store_format::PackName;
use store_format::frame::{Header, MAGIC, Opened, Opener};
use store_format::pack::{self, Entry};

/// A damaged pack, and what is kept of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Salvage {
    pub pack: PackName,
    /// Bytes of its file.
    pub bytes: u64,
    /// Chunks that were proven, as its table would list them.
    pub chunks: Vec<Entry>,
}

/// All chunks of frames that can be opened, whatever else the bytes are: neither
/// the header of the pack nor its table is believed. Each has the name that its
/// bytes have.
pub(super) fn chunks(pack: &[u8]) -> Vec<Entry> {
    let (mut opener, mut opened) = (Opener::default(), Opened::default());
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(start) = next(pack, at) {
        let frame = Header::decode(&pack[start..]).ok().and_then(|header| {
            let end = start.checked_add(usize::try_from(header.frame_len()).ok()?)?;
            opener.open(pack.get(start..end)?, &mut opened).ok()?;
            Some((header, end))
        });
        at = match frame {
            Some((header, end)) => {
                let ids = opened.chunks().map(|(id, _)| id);
                found.extend(pack::entries_of(&header, start as u64, ids));
                end
            }
            None => start + 1,
        };
    }
    found
}

/// Where the next frame may start.
fn next(pack: &[u8], from: usize) -> Option<usize> {
    let at = pack.get(from..)?.windows(MAGIC.len()).position(|bytes| *bytes == MAGIC)?;
    Some(from + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use store_format::digest_of;
    use store_format::frame::Sealer;
    use store_format::pack::Builder;

    use super::*;

    /// Two chunks to a frame.
    fn pack(chunks: &[Vec<u8>]) -> Vec<u8> {
        let (mut builder, mut bytes) = (Builder::default(), Builder::header().to_vec());
        let mut sealer = Sealer::new(3).unwrap();
        for pair in chunks.chunks(2) {
            let lens: Vec<u32> = pair.iter().map(|chunk| chunk.len() as u32).collect();
            let ids: Vec<_> = pair.iter().map(|chunk| digest_of(chunk)).collect();
            builder.push(&sealer.seal(&lens, &pair.concat(), &mut bytes).unwrap(), &ids);
        }
        bytes.extend(builder.finish());
        bytes
    }

    proptest! {
        /// Whatever byte is wrong, wherever the file ends: only the frame that
        /// it hits is lost, and no chunk is made up.
        #[test]
        fn one_wrong_byte_costs_one_frame(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..8),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        ) {
            let whole = pack(&chunks);
            let good = super::chunks(&whole);
            prop_assert_eq!(&good, &pack::entries(&whole).unwrap());
            let ids: Vec<_> = chunks.iter().map(|chunk| digest_of(chunk)).collect();
            prop_assert!(good.iter().map(|chunk| chunk.id).eq(ids.iter().copied()));
            let at = at.index(whole.len());
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let end = |chunk: &Entry| (chunk.offset + u64::from(chunk.frame_len)) as usize;
            let hit = |chunk: &&Entry| (chunk.offset as usize..end(chunk)).contains(&at);
            let left: Vec<_> = good.iter().filter(|chunk| !hit(chunk)).copied().collect();
            let found = super::chunks(&bytes);
            // Of a frame that is kept raw, others are right.
            let known = found.iter().filter(|chunk| ids.contains(&chunk.id));
            let elsewhere: Vec<_> = known.filter(|chunk| !hit(chunk)).copied().collect();
            prop_assert_eq!(elsewhere, left);
            let ended: Vec<_> = good.iter().filter(|chunk| end(chunk) <= at).copied().collect();
            prop_assert_eq!(super::chunks(&whole[..at]), ended);
        }

        #[test]
        fn any_bytes_give_only_what_is_proven(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let bytes = [&bytes[..], &MAGIC, &bytes[..]].concat();
            let found = super::chunks(&bytes);
            let name = PackName([0; 32]);
            let proven = crate::packs::each_chunk::<crate::ReadError>(&name, &bytes, &found, |_, _| Ok(()));
            prop_assert!(proven.is_ok());
        }
    }
}
