//! Whether there is anything in the journal: "Journal (jbd2)".

use super::files::Extent;
use super::{Blocks, Files, Volume};
use crate::fields::array;
use crate::{NoMap, ReadAt};

const MAGIC: u32 = 0xc03b_3998;
/// Superblock of version 1 or 2.
const TYPES: [u32; 2] = [3, 4];

impl<R: ReadAt + ?Sized> Volume<'_, R> {
    /// Adds the journal. What an empty one holds besides its superblock is of no
    /// use to anybody.
    pub(super) fn journal(&self, extents: &[Extent], files: &mut Files) -> Result<(), NoMap> {
        let mut blocks = extents.iter().map(|extent| extent.blocks.clone());
        let Some(mut first) = blocks.next() else { return Ok(()) };
        files.edges.add(&first);
        let empty = self.journal_is_empty(&first)?;
        if empty {
            files.used(first.start..first.start + 1)?;
            first.start += 1;
        }
        for blocks in [first].into_iter().chain(blocks) {
            match empty {
                true => files.unwritten(blocks)?,
                false => files.used(blocks)?,
            }
        }
        Ok(())
    }

    /// Whether nothing in the journal, which begins with these blocks, will be
    /// read again but its superblock.
    fn journal_is_empty(&self, first: &Blocks) -> Result<bool, NoMap> {
        let block = self.block(first.start)?;
        // Unlike everything else, the journal is big-endian.
        let field = |at: usize| u32::from_be_bytes(array(&block, at));
        let (start, error) = (field(0x1c), field(0x20));
        Ok(field(0) == MAGIC && TYPES.contains(&field(4)) && start == 0 && error == 0)
    }
}
