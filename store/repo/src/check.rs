//! Looking for damage.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use store_format::frame::{Opened, Opener};
use store_format::pack::{self, Entry};
use store_format::{DecodeError, Extent, PackName};
use wire::{Digest, chain};

use crate::database::ImageRow;
use crate::database::garbage::Inventory;
use crate::index::{Agreement, Chunks, Frugal, Snapshot};
use crate::open::Repo;
use crate::packs::{self, PackError};
use crate::read::ReadError;
use crate::storage::{StorageError, pack_key};
use crate::tables::OpenTable;

/// Most bytes of a pack that are read to hash it.
const PACK_MAX: u64 = store_format::pack::BYTES_MAX;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File in the store.
    pub file: String,
    /// What is wrong with it, with its causes.
    pub what: String,
    /// What to do about it.
    pub advice: String,
    /// Images that cannot be read because of it, or once it is removed as advised.
    pub images: Vec<Digest>,
}

/// What a check looked at, and what it found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Images looked at.
    pub images: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Chunks in these.
    pub chunks: u64,
    /// Bytes that were hashed; 0 for a check of the structure alone.
    pub hashed_bytes: u64,
    /// Packs that no image needs.
    pub unneeded_packs: u64,
    /// What is wrong. Empty: the store is whole.
    pub problems: Vec<Problem>,
}

/// What is wrong with a pack.
pub(crate) struct PackProblem {
    pub pack: PackName,
    pub what: String,
    kind: Kind,
}

/// What may be done about a pack's problem.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Damaged,
    /// It was not read, and may be whole.
    Unread,
    /// It seems to be of a later version.
    Newer,
}

/// What the packs have.
pub(crate) struct Packs {
    /// Chunks of the packs that have no problem.
    pub sound: Chunks,
    /// Chunks of the others that can be read, as far as was looked.
    rest: Chunks,
    /// Packs by name, and whether they list chunks: those whose table is damaged
    /// do not.
    names: BTreeMap<PackName, bool>,
    pub problems: Vec<PackProblem>,
    /// Packs that are to be deleted: nothing needs them, whatever they have.
    condemned: u64,
}

/// Images that need chunks which cannot be read.
#[derive(Default)]
struct Lost {
    /// By the pack that should have the chunks.
    packs: BTreeMap<PackName, HashSet<Digest>>,
    /// Those of chunks that no pack was ever known to have.
    homeless: HashSet<Digest>,
}

/// What a check found, for who acts on it.
pub(crate) struct Examined {
    pub report: CheckReport,
    pub packs: Arc<Packs>,
    /// Files of the index that are damaged or wrong.
    pub segments: Vec<String>,
}

const MISSING: &str = "`ingot check --repair --from` takes what is missing from another store or from \
                       the raw image; or import or build the images again that are listed: what \
                       is left of them is kept";
const DAMAGED: &str = "`ingot check --repair` keeps what is good in the file, and with --from takes \
                       the rest from another store or from the raw image";
const UNREAD: &str = "try again; if the disk never gives the file, copy what it does give to its place, \
                      with ddrescue for example, or remove it, then run `ingot check --repair`";
const NEWER: &str =
    "use a newer ingot; if the file is damaged instead, `ingot check --repair` finds out";
const INDEX_ADVICE: &str = "`ingot check --repair` builds it again from the packs";

impl PackProblem {
    /// The disk did not give it.
    pub(crate) fn is_unread(&self) -> bool {
        self.kind == Kind::Unread
    }

    fn advice(&self) -> &'static str {
        match self.kind {
            Kind::Damaged => DAMAGED,
            Kind::Unread => UNREAD,
            Kind::Newer => NEWER,
        }
    }

    fn unread(pack: PackName, error: &StorageError) -> PackProblem {
        PackProblem { pack, what: chain(error), kind: Kind::Unread }
    }

    fn of_table(pack: PackName, error: &PackError) -> PackProblem {
        let kind = match error {
            PackError::Storage(error) => return PackProblem::unread(pack, error),
            PackError::Decode(DecodeError::Version { .. }) => Kind::Newer,
            PackError::Decode(_) => Kind::Damaged,
        };
        PackProblem { pack, what: chain(error), kind }
    }
}

impl Packs {
    fn new(index: &Snapshot) -> Packs {
        Packs {
            sound: Chunks::new(index),
            rest: Chunks::new(index),
            names: BTreeMap::new(),
            problems: Vec::new(),
            condemned: 0,
        }
    }
}

impl Lost {
    fn add(&mut self, other: Lost) {
        for (pack, images) in other.packs {
            self.packs.entry(pack).or_default().extend(images);
        }
        self.homeless.extend(other.homeless);
    }
}

impl Repo {
    /// Looks at every image, pack and index segment: names, versions, tables,
    /// checksums, and that every chunk is somewhere. With `data` every stored
    /// byte is hashed too. An error says that looking was not possible; damage
    /// is in the report.
    pub async fn check(&self, data: bool) -> Result<CheckReport, StorageError> {
        let lease = self.lease_to_read().await?;
        let examined = self.examine(data).await?;
        if let Some(lease) = lease {
            lease.end().await;
        }
        Ok(examined.report)
    }

    /// The same for who has a lease.
    pub(crate) async fn examine(&self, data: bool) -> Result<Examined, StorageError> {
        let mut report = CheckReport::default();
        // Before the packs: what is recorded later may be in packs that are
        // written later.
        let Inventory { images, packs: rows, condemned } = self.database.inventory().await?;
        self.look_again().await?;
        let index = self.index.snapshot();
        let mut agreement = Agreement::new(&index);
        let packs = Packs::new(&index);
        let packs = self.check_packs(data, &condemned, packs, &mut agreement, &mut report).await?;
        let segments = check_index(agreement, &packs, &mut report);
        let packs = Arc::new(packs);
        let mut lost = Lost::default();
        for image in &images {
            report.images += 1;
            match self.check_image(image, &packs).await {
                Ok(more) => lost.add(more),
                Err(error) => report.problems.push(of_image(&error, image)),
            }
        }
        self.check_pack_rows(&rows, &packs, lost, &mut report);
        let rows: HashSet<String> = self.database.packs().await?.into_iter().collect();
        let unneeded = packs.names.keys().filter(|name| !rows.contains(&name.to_string()));
        report.unneeded_packs = unneeded.count() as u64 + packs.condemned;
        Ok(Examined { report, packs, segments })
    }

    async fn check_packs(
        &self,
        data: bool,
        condemned: &HashSet<String>,
        mut packs: Packs,
        agreement: &mut Agreement,
        report: &mut CheckReport,
    ) -> Result<Packs, StorageError> {
        for (name, len) in self.storage.packs().await? {
            report.packs += 1;
            if condemned.contains(pack_key(&name).as_ref()) {
                packs.condemned += 1;
                continue;
            }
            let entries = match packs::table(&self.storage, &name, len).await {
                Ok(entries) => entries,
                Err(PackError::Storage(error @ StorageError::Denied { .. })) => return Err(error),
                // Deleted as garbage since the list was made; needed ones are missed later.
                Err(PackError::Storage(StorageError::Missing { .. })) => continue,
                Err(error) => {
                    packs.problems.push(PackProblem::of_table(name, &error));
                    packs.names.insert(name, false);
                    continue;
                }
            };
            report.chunks += entries.len() as u64;
            agreement.push(name, &entries);
            packs.names.insert(name, !entries.is_empty());
            match data {
                true => {
                    report.hashed_bytes += len;
                    self.check_data(&name, entries, &mut packs).await?;
                }
                false => packs.sound.extend(entries.iter().map(|entry| entry.id)),
            }
        }
        packs.sound.settle();
        packs.rest.settle();
        Ok(packs)
    }

    /// Hashes a pack and all its chunks.
    async fn check_data(
        &self,
        name: &PackName,
        entries: Vec<Entry>,
        packs: &mut Packs,
    ) -> Result<(), StorageError> {
        let key = pack_key(name);
        let bytes = match self.storage.get(&key, PACK_MAX).await {
            Err(error @ StorageError::Denied { .. }) => return Err(error),
            // Deleted as garbage since its table was read.
            Err(StorageError::Missing { .. }) => return Ok(()),
            Err(error) => {
                packs.problems.push(PackProblem::unread(*name, &error));
                return Ok(());
            }
            Ok(bytes) => bytes,
        };
        let name = *name;
        let look = tokio::task::spawn_blocking(move || look_at(&name, &bytes, &entries));
        let (good, bad) = look.await.map_err(|e| StorageError::new(key.as_ref(), Box::new(e)))?;
        match bad {
            None => packs.sound.extend(good),
            Some(what) => {
                packs.rest.extend(good);
                packs.problems.push(PackProblem { pack: name, what, kind: Kind::Damaged });
            }
        }
        Ok(())
    }

    /// Looks at an image's own files, and for its chunks. An error is a problem of
    /// the former.
    async fn check_image(&self, image: &ImageRow, packs: &Arc<Packs>) -> Result<Lost, ReadError> {
        // Not by its record, which a collection may take away meanwhile.
        let envelope = self.envelope_of(image).await?;
        let table = self.open_table(image).await?.table;
        table.outline.check(&envelope).map_err(|source| ReadError::Table {
            key: crate::storage::blob_key(&image.table).to_string(),
            source,
        })?;
        let (index, packs, image) = (self.index.snapshot(), Arc::clone(packs), image.digest);
        let look = tokio::task::spawn_blocking(move || lost(image, &table, &packs, index));
        look.await.map_err(|_| ReadError::Broken)?
    }

    /// Reports damaged and missing packs with the images that need them.
    fn check_pack_rows(
        &self,
        rows: &[String],
        packs: &Packs,
        lost: Lost,
        report: &mut CheckReport,
    ) {
        let Lost { packs: mut hit, homeless } = lost;
        let mut push = |file: String, what: String, advice: &str, images: HashSet<Digest>| {
            let mut images: Vec<Digest> = images.into_iter().collect();
            images.sort_unstable();
            report.problems.push(Problem { file, what, advice: advice.to_owned(), images });
        };
        for problem in &packs.problems {
            let images = hit.remove(&problem.pack).unwrap_or_default();
            let file = pack_key(&problem.pack).to_string();
            push(file, problem.what.clone(), problem.advice(), images);
        }
        let rows: HashSet<PackName> = rows.iter().filter_map(|row| row.parse().ok()).collect();
        for name in rows.iter().filter(|name| !packs.names.contains_key(name)) {
            let images = hit.remove(name).unwrap_or_default();
            // Its chunks may have come into other packs since.
            if !images.is_empty() || !homeless.is_empty() {
                let file = pack_key(name).to_string();
                push(file, "it is missing".to_owned(), MISSING, images);
            }
        }
        for (name, images) in hit {
            push(
                pack_key(&name).to_string(),
                "chunks that it should have are missing".to_owned(),
                MISSING,
                images,
            );
        }
        if !homeless.is_empty() {
            push("packs".to_owned(), "chunks are in no pack".to_owned(), MISSING, homeless);
        }
    }
}

/// Chunks of a pack that are right, and what is wrong with the pack.
fn look_at(name: &PackName, bytes: &[u8], entries: &[Entry]) -> (Vec<Digest>, Option<String>) {
    let (mut opener, mut opened) = (Opener::default(), Opened::default());
    let mut good = Vec::new();
    let mut wrong = None;
    for chunks in pack::frames(entries) {
        let at = chunks[0].offset;
        let mut note = |error| {
            wrong.get_or_insert_with(|| format!("at byte {at}: {error}"));
        };
        if let Err(error) = opener.open(packs::frame_of(bytes, &chunks[0]), &mut opened) {
            note(error);
            continue;
        }
        for entry in chunks {
            match opened.chunk(&entry.id, entry.plain_offset, entry.plain_len) {
                Ok(_) => good.push(entry.id),
                Err(error) => note(error),
            }
        }
    }
    if wrong.is_none() && !packs::is_named(bytes, name) {
        wrong = Some("its bytes have another digest than its name".to_owned());
    }
    (good, wrong)
}

/// Reports the files of the index that have a problem, and returns them.
fn check_index(agreement: Agreement, packs: &Packs, report: &mut CheckReport) -> Vec<String> {
    let wrong = agreement.finish(|pack| packs.names.get(pack).copied().unwrap_or(false));
    let files = wrong.iter().map(|(file, _)| file.clone()).collect();
    report.problems.extend(wrong.into_iter().map(|(file, what)| {
        let advice = INDEX_ADVICE.to_owned();
        Problem { file, what, advice, images: Vec::new() }
    }));
    files
}

/// What an image needs and cannot be read, by the pack that should have it.
fn lost(
    image: Digest,
    table: &OpenTable,
    packs: &Packs,
    index: Snapshot,
) -> Result<Lost, ReadError> {
    let index = Frugal::new(index);
    let bad: HashSet<PackName> = packs.problems.iter().map(|problem| problem.pack).collect();
    // What is good in a damaged pack is lost too once it is removed.
    let in_bad = |id: &Digest| index.look_often().get_in(id, &bad).filter(|_| !bad.is_empty());
    let mut lost = Lost::default();
    for placed in table.extents() {
        let (_, Extent::Chunk { id, .. }) = placed? else { continue };
        if packs.sound.contains(&id) || (packs.rest.contains(&id) && in_bad(&id).is_none()) {
            continue;
        }
        match in_bad(&id).or_else(|| index.look_often().get_any(&id)) {
            Some(place) => drop(lost.packs.entry(place.pack).or_default().insert(image)),
            None => drop(lost.homeless.insert(image)),
        }
    }
    Ok(lost)
}

fn of_image(error: &ReadError, image: &ImageRow) -> Problem {
    Problem {
        file: file_of(error, image),
        what: chain(error),
        advice: MISSING.to_owned(),
        images: vec![image.digest],
    }
}

fn file_of(error: &ReadError, image: &ImageRow) -> String {
    match error {
        ReadError::Blob { key } | ReadError::Table { key, .. } => key.clone(),
        ReadError::Storage(StorageError::Missing { key }) => key.clone(),
        _ => crate::storage::blob_key(&image.digest).to_string(),
    }
}
