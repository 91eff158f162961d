//! What must be true after every step, found out from the objects and records
//! alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use store_format::table::KeptTable;
use store_format::{PackName, pack};
use wire::Digest;

use crate::database::ImageRow;
use crate::database::garbage::Records;
use crate::storage::{blob_key, pack_key};

/// What it was said is so.
#[derive(Default)]
pub(super) struct Oracle {
    /// What was reported stored, and not removed since.
    pub names: BTreeMap<String, Digest>,
    /// Packs that somebody was told of, and until when they stay.
    pub told: Vec<(Vec<PackName>, u64)>,
    /// Objects do not change: what they have.
    chunks_of: HashMap<String, Arc<HashSet<Digest>>>,
    tables: HashMap<Digest, Arc<Vec<Digest>>>,
}

impl Oracle {
    /// `unsettled`: names that are being changed.
    pub(super) async fn verify(
        &mut self,
        objects: &InMemory,
        records: &Records,
        unsettled: &[String],
        now_ms: u64,
    ) -> Result<(), String> {
        let there: Vec<_> = objects.list(None).try_collect().await.unwrap();
        let there: HashSet<String> = there.into_iter().map(|m| m.location.to_string()).collect();
        self.names_are_kept(records, unsettled)?;
        let mut packs = Vec::new();
        for key in there.iter().filter(|key| key.starts_with("packs/")) {
            packs.push(self.chunks(objects, key).await);
        }
        for row in &records.images {
            let is_there = |blob: &Digest| match there.contains(blob_key(blob).as_ref()) {
                true => Ok(()),
                false => Err(format!("{} of image {} is gone", blob_key(blob), row.digest)),
            };
            is_there(&row.digest)?;
            is_there(&row.table)?;
            if let KeptTable::Derived(derived) = kept_table(objects, &row.table).await {
                is_there(&derived.base)?;
            }
            let table = self.table(objects, &row.table).await;
            if let Some(id) = table.iter().find(|id| !packs.iter().any(|pack| pack.contains(id))) {
                return Err(format!("chunk {id} of image {} is gone", row.digest));
            }
        }
        self.told.retain(|(_, until)| *until > now_ms);
        for pack in self.told.iter().flat_map(|(packs, _)| packs) {
            let key = pack_key(pack).to_string();
            if !there.contains(&key) {
                return Err(format!("{key} is gone, of which a machine was told"));
            }
        }
        Ok(())
    }

    fn names_are_kept(&self, records: &Records, unsettled: &[String]) -> Result<(), String> {
        let found: BTreeMap<String, Digest> = (records.names.iter())
            .map(|row| (format!("{}:{}", row.name, row.tag), row.image))
            .filter(|(name, _)| !unsettled.contains(name))
            .collect();
        let said: BTreeMap<_, _> = (self.names.iter())
            .filter(|(name, _)| !unsettled.contains(name))
            .map(|(name, image)| (name.clone(), *image))
            .collect();
        match found == said {
            true => Ok(()),
            false => Err(format!("names are {found:?}, and it was said {said:?}")),
        }
    }

    async fn chunks(&mut self, objects: &InMemory, key: &str) -> Arc<HashSet<Digest>> {
        if let Some(known) = self.chunks_of.get(key) {
            return Arc::clone(known);
        }
        let bytes = objects.get(&Path::from(key)).await.unwrap().bytes().await.unwrap();
        let entries = pack::entries(&bytes).unwrap();
        let chunks: Arc<HashSet<_>> = Arc::new(entries.iter().map(|entry| entry.id).collect());
        self.chunks_of.insert(key.to_owned(), Arc::clone(&chunks));
        chunks
    }

    async fn table(&mut self, objects: &InMemory, name: &Digest) -> Arc<Vec<Digest>> {
        if let Some(known) = self.tables.get(name) {
            return Arc::clone(known);
        }
        let table = match kept_table(objects, name).await {
            KeptTable::Whole(table) => table,
            KeptTable::Derived(derived) => match kept_table(objects, &derived.base).await {
                KeptTable::Whole(base) => derived.resolve(&base).unwrap(),
                KeptTable::Derived(_) => panic!("{name} is derived twice"),
            },
        };
        let chunks: Arc<Vec<_>> = Arc::new(table.distinct().map(|(id, _)| id).collect());
        self.tables.insert(*name, Arc::clone(&chunks));
        chunks
    }
}

/// The blobs that images need.
pub(super) async fn needed_blobs(objects: &InMemory, rows: &[ImageRow]) -> HashSet<Digest> {
    let mut needed = HashSet::new();
    for row in rows {
        needed.extend([row.digest, row.table]);
        if let KeptTable::Derived(derived) = kept_table(objects, &row.table).await {
            needed.insert(derived.base);
        }
    }
    needed
}

async fn kept_table(objects: &InMemory, name: &Digest) -> KeptTable {
    let bytes = objects.get(&blob_key(name)).await.unwrap().bytes().await.unwrap();
    KeptTable::decode(&bytes).unwrap()
}
