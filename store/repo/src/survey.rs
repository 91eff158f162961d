//! Where the chunks of an image are, in sum: looked up a page of its table at a
//! time, so that memory does not depend on how many they are.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use store_format::{Extent, PackName};

use crate::index::Frugal;
use crate::open::Repo;
use crate::read::{ReadError, meets};
use crate::tables::OpenTable;

/// What the chunks of a range of an image take.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The packs that they are in, in the order of their first chunks.
    pub packs: Vec<PackName>,
    /// How many they are, each counted once.
    pub chunks: u64,
    /// Their shares of the bytes of their frames.
    pub stored_bytes: u64,
}

impl Repo {
    /// Looks up all chunks of a range, which are stored then, in packs that are
    /// there. The index is the one that says so.
    pub(crate) async fn survey(
        &self,
        table: &Arc<OpenTable>,
        range: &Range<u64>,
    ) -> Result<(Arc<Frugal>, Survey), ReadError> {
        let (index, found) = self.survey_once(table, range).await;
        let packs = found.as_ref().map(|survey| survey.packs.as_slice());
        if !self.is_stale(packs).await? {
            return found.map(|survey| (index, survey));
        }
        self.catch_up().await?;
        let (index, found) = self.survey_once(table, range).await;
        found.map(|survey| (index, survey))
    }

    async fn survey_once(
        &self,
        table: &Arc<OpenTable>,
        range: &Range<u64>,
    ) -> (Arc<Frugal>, Result<Survey, ReadError>) {
        let index = Arc::new(Frugal::new(self.index.snapshot()));
        let (table, range, looked) = (Arc::clone(table), range.clone(), Arc::clone(&index));
        let work = tokio::task::spawn_blocking(move || survey(&table, &range, &looked));
        (index, work.await.unwrap_or(Err(ReadError::Broken)))
    }
}

fn survey(table: &OpenTable, range: &Range<u64>, index: &Frugal) -> Result<Survey, ReadError> {
    let mut survey = Survey::default();
    let mut packs = HashSet::new();
    let snapshot = index.look_often();
    let mut seen = snapshot.marks();
    for page in table.pages_of(range) {
        for placed in table.page(page)?.iter().filter(|placed| meets(placed, range)) {
            let (_, Extent::Chunk { id, .. }) = *placed else { continue };
            let (spot, place) = snapshot.spot(&id).ok_or(ReadError::Chunk { id })?;
            if seen.insert(spot) {
                if packs.insert(place.pack) {
                    survey.packs.push(place.pack);
                }
                survey.chunks += 1;
                survey.stored_bytes += u64::from(place.entry.stored_len);
            }
        }
    }
    index.let_go();
    Ok(survey)
}
