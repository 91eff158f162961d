//! What is good in a damaged pack.

use store_format::PackName;
use store_format::frame::{Header, MAGIC, Opener};

/// A frame that was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub offset: usize,
    pub header: Header,
}

/// A damaged pack, and what is kept of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Salvage {
    pub pack: PackName,
    /// Bytes of its file.
    pub bytes: u64,
    pub frames: Vec<Frame>,
}

impl Frame {
    /// Its bytes, header included, if the pack still has so many.
    pub(super) fn of<'a>(&self, pack: &'a [u8]) -> Option<&'a [u8]> {
        let len = usize::try_from(self.header.frame_len()).ok()?;
        pack.get(self.offset..self.offset.checked_add(len)?)
    }
}

/// All frames that can be proven, whatever else the bytes are: neither the
/// header of the pack nor its table is believed.
pub(super) fn frames(pack: &[u8]) -> Vec<Frame> {
    let (mut opener, mut plain) = (Opener::default(), Vec::new());
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(start) = next(pack, at) {
        let proven = Header::decode(&pack[start..]).ok().and_then(|header| {
            let frame = Frame { offset: start, header };
            let bytes = frame.of(pack)?;
            opener.open(&header, &bytes[Header::LEN..], &mut plain).ok()?;
            Some((frame, bytes.len()))
        });
        at = match proven {
            Some((frame, len)) => {
                found.push(frame);
                start + len
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
    use store_format::frame::Sealer;
    use store_format::pack::Builder;

    use super::*;

    fn pack(chunks: &[Vec<u8>]) -> Vec<u8> {
        let (mut builder, mut bytes) = (Builder::default(), Builder::header().to_vec());
        let mut sealer = Sealer::new(3).unwrap();
        for chunk in chunks {
            let id = store_format::digest_of(chunk);
            builder.push(&sealer.seal(id, chunk, &mut bytes).unwrap());
        }
        bytes.extend(builder.finish());
        bytes
    }

    proptest! {
        /// Whatever byte is wrong, wherever the file ends: only the chunk that
        /// it hits is lost, and none is made up.
        #[test]
        fn one_wrong_byte_costs_one_chunk(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..8),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        ) {
            let whole = pack(&chunks);
            let good = frames(&whole);
            prop_assert_eq!(good.len(), chunks.len());
            let at = at.index(whole.len());
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let hit = |frame: &&Frame| {
                (frame.offset..frame.offset + frame.header.frame_len() as usize).contains(&at)
            };
            let left: Vec<_> = good.iter().filter(|frame| !hit(frame)).copied().collect();
            prop_assert_eq!(frames(&bytes), left);
            let ended: Vec<_> =
                good.iter().filter(|f| f.offset + f.header.frame_len() as usize <= at).copied().collect();
            prop_assert_eq!(frames(&whole[..at]), ended);
        }

        #[test]
        fn any_bytes_give_only_what_is_proven(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let bytes = [&bytes[..], &MAGIC, &bytes[..]].concat();
            for frame in frames(&bytes) {
                let found = frame.of(&bytes).unwrap();
                let mut plain = Vec::new();
                prop_assert!(Opener::default().open(&frame.header, &found[48..], &mut plain).is_ok());
            }
        }
    }
}
