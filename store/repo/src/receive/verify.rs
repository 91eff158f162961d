//! Reading an image back, to see that it is what its envelope says.

use futures::TryStreamExt;
use store_format::Envelope;
use store_format::region::Hasher;
use tokio::runtime::Handle;

use super::ReceiveError;
use crate::read::{Piece, Pieces};

/// Compares the digest of each region with that of its pieces, of which none is
/// in two regions; `progress` hears how many bytes are behind. Blocks.
pub(super) fn verify(
    runtime: &Handle,
    mut pieces: Pieces,
    envelope: &Envelope,
    mut progress: impl FnMut(u64),
) -> Result<(), ReceiveError> {
    let mut done = 0;
    for region in &envelope.regions {
        let (mut hasher, end) = (Hasher::default(), done + region.bytes);
        while done < end {
            let piece = runtime.block_on(pieces.try_next())?.ok_or(ReceiveError::Broken)?;
            done += match piece {
                Piece::Hole { bytes, .. } => {
                    hasher.zeros(bytes);
                    bytes
                }
                Piece::Data { bytes, .. } => {
                    hasher.update(&bytes);
                    bytes.len() as u64
                }
            };
            progress(done);
        }
        let found = hasher.finish();
        if done != end || found != region.digest {
            let (name, said) = (region.name.clone(), region.digest);
            return Err(ReceiveError::Region { name, said, found });
        }
    }
    Ok(())
}
