//! Making and opening a store.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::migrate::MigrateError;
use store_format::PackName;
use tokio::sync::Mutex;
use wire::Digest;

use crate::database::{self, Database};
use crate::index::Index;
use crate::lease::Pulls;
use crate::locations::Lists;
use crate::marker::{self, FORMAT, MARKER};
use crate::packs::{self, PackError};
use crate::place::{Missing, Place};
use crate::shelf::Shelf;
use crate::storage::{Storage, StorageError, pack_key};

/// Entries after which the tables of packs become one index segment when an
/// index is built again: some 50 MB while that is made.
const REBUILD_ENTRIES: usize = 1 << 18;

/// A store of images. Cheap to use from many tasks at once; several processes
/// may have the same store open.
pub struct Repo {
    pub(crate) storage: Storage,
    pub(crate) database: Database,
    pub(crate) index: Index,
    /// Answers to those who ask for locations, and for chunk tables.
    pub(crate) lists: Lists,
    pub(crate) tables: Shelf<Digest, ()>,
    pub(crate) pulls: Pulls,
    /// Held by whoever looks which packs there are.
    looking: Mutex<()>,
    /// The epoch up to which the index knows what is condemned.
    caught_up: AtomicU64,
}

/// Which packs there are.
struct Look {
    /// Up to which it is known what is condemned.
    epoch: u64,
    /// Those that exist and are not condemned, with their lengths.
    packs: Vec<(PackName, u64)>,
    /// Those of them that the index lacks.
    missing: HashSet<PackName>,
}

/// Why a store could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An address of a kind that is not known.
    #[error(
        "{url:?} is not a store that this program can use: give a folder, file:///folder or \
         s3://bucket/prefix"
    )]
    Url {
        /// The address.
        url: String,
    },
    /// A bucket, and no folder for the records.
    #[error("the store at {url} needs a folder for its records, and none was named")]
    NoHome {
        /// The address.
        url: String,
    },
    /// The settings of a bucket do not make sense.
    #[error("cannot use {url}: correct the AWS_… variables (docs/backends.md)")]
    Bucket {
        /// The address.
        url: String,
        /// What is wrong.
        #[source]
        source: object_store::Error,
    },
    /// There is nothing at the address.
    #[error("there is no store at {at}: make one by importing or building an image")]
    Absent {
        /// The folder.
        at: String,
    },
    /// There is something else at the address.
    #[error("{at} is not empty and is not a store: choose another place")]
    NotAStore {
        /// The folder.
        at: String,
    },
    /// Made by a newer version.
    #[error(
        "the store at {at} has format {found:?}, and this program reads {FORMAT:?}: use a newer ingot"
    )]
    Newer {
        /// The folder.
        at: String,
        /// Its format.
        found: String,
    },
    /// The marker is not what a store has.
    #[error(
        "{MARKER} of the store at {at} is damaged: put a whole one in its place, in a folder that of \
         any other store in a folder, in a bucket the copy beside its records (docs/backends.md)"
    )]
    Marker {
        /// The folder.
        at: String,
    },
    /// The bucket is somebody else's, or the records are.
    #[error(
        "the records of the store at {at}, its names and list of images, are not in {home}: use \
         the machine that has them, or restore that folder from a backup; nothing was changed"
    )]
    NoRecords {
        /// The address.
        at: String,
        /// The folder.
        home: String,
    },
    /// Records without the bucket's objects.
    #[error(
        "there is no store at {at}, and its records are in {home}: correct the address or the \
         server's, or move that folder away to begin anew; nothing was changed"
    )]
    NoObjects {
        /// The address.
        at: String,
        /// The folder.
        home: String,
    },
    /// The records are gone, the images' bytes are not.
    #[error(
        "store.db, the names and list of images, is missing from the store at {at}, and its packs \
         and blobs are still there: restore store.db from a backup, or import into a new folder; \
         nothing was changed"
    )]
    NoDatabase {
        /// The folder.
        at: String,
    },
    /// Its bytes cannot be reached.
    #[error("cannot open the store at {at}")]
    Storage {
        /// The folder.
        at: String,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// The database is damaged or of another version.
    #[error("cannot use the database store.db of the store at {at}")]
    Database {
        /// The folder.
        at: String,
        /// Why.
        #[source]
        source: Box<MigrateError>,
    },
}

impl Repo {
    /// Opens the store at a place (of a folder, its path is enough).
    pub async fn open(place: impl Into<Place>) -> Result<Repo, OpenError> {
        let storage = place.into().storage(Missing::Stays)?;
        Repo::open_storage(storage).await
    }

    /// As [`Repo::open`], but makes the store, and its folder, where there is none.
    pub async fn open_or_create(place: impl Into<Place>) -> Result<Repo, OpenError> {
        let storage = place.into().storage(Missing::IsMade)?;
        match Repo::create(&storage).await {
            Err(OpenError::NotAStore { .. }) | Ok(()) => Repo::open_storage(storage).await,
            Err(other) => Err(other),
        }
    }

    /// Writes what makes a place a store. The place must be empty.
    pub async fn create(storage: &Storage) -> Result<(), OpenError> {
        marker::write(storage).await
    }

    /// Opens a store wherever it is.
    pub async fn open_storage(storage: Storage) -> Result<Repo, OpenError> {
        let (at, home) = (storage.name.clone(), storage.home.display().to_string());
        marker::check(&storage).await?;
        check_database(&storage, &home).await?;
        let database =
            Database::open(&storage.home, true).await.map_err(|e| database_error(&home, e))?;
        let over = Repo::over(storage, database).await;
        over.map_err(|source| OpenError::Storage { at, source })
    }

    /// A store with these records.
    pub(crate) async fn over(storage: Storage, database: Database) -> Result<Repo, StorageError> {
        let index = Index::open(storage.clone()).await?;
        let (lists, tables, pulls) = (Shelf::default(), Shelf::default(), Pulls::default());
        let (looking, caught_up) = (Mutex::default(), AtomicU64::new(0));
        let repo = Repo { storage, database, index, lists, tables, pulls, looking, caught_up };
        repo.start().await?;
        Ok(repo)
    }

    /// Lets the index count the packs that are recorded, which takes much less
    /// time than to look for them. Where it does not list them all, it catches
    /// up. A pack that somebody removed is missed by whoever reads from it, and
    /// whoever writes looks for himself.
    async fn start(&self) -> Result<(), StorageError> {
        let missing = {
            let _looking = self.looking.lock().await;
            let epoch = self.database.epoch().await?;
            let condemned = self.database.condemned().await?;
            let packs = self.database.packs().await?;
            let packs = packs.iter().filter_map(|name| name.parse().ok());
            let packs = packs.filter(|name| !condemned.contains(pack_key(name).as_ref()));
            let missing = self.index.compare(packs.collect());
            self.caught_up.store(epoch, Ordering::Release);
            missing
        };
        match missing.is_empty() {
            true => Ok(()),
            false => self.catch_up().await.map(drop),
        }
    }

    /// Brings the index up to date with the packs that exist and are not
    /// condemned: reads the tables of those it does not list. Packs that are
    /// damaged, or that the disk does not give, are left to `check`: the others
    /// shall be readable. Returns these packs and their lengths.
    pub(crate) async fn catch_up(&self) -> Result<Vec<(PackName, u64)>, StorageError> {
        let looking = self.looking.lock().await;
        let Look { epoch, packs, missing } = self.look_at_packs().await?;
        let todo = packs.iter().filter(|(name, _)| missing.contains(name));
        let (mut tables, mut count) = (Vec::new(), 0);
        for (name, len) in todo {
            match packs::table(&self.storage, name, *len).await {
                Ok(entries) => {
                    count += entries.len();
                    tables.push((*name, entries));
                }
                Err(PackError::Decode(error)) => {
                    tracing::warn!(pack = %name, %error, "pack is damaged; its chunks are lost");
                }
                Err(PackError::Storage(error @ StorageError::Denied { .. })) => {
                    return Err(error);
                }
                Err(PackError::Storage(error)) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(pack = %name, error, "pack cannot be read; it is left out");
                }
            }
            if count >= REBUILD_ENTRIES {
                self.index.append(&std::mem::take(&mut tables)).await?;
                count = 0;
            }
        }
        if !tables.is_empty() {
            self.index.append(&tables).await?;
        }
        self.caught_up.store(epoch, Ordering::Release);
        // What takes its time shall keep nobody waiting who wants to look.
        drop(looking);
        self.index.tidy().await;
        Ok(packs)
    }

    /// As [`Repo::catch_up`], unless the index knows what was condemned up to
    /// this epoch.
    pub(crate) async fn follow(&self, epoch: u64) -> Result<(), StorageError> {
        match epoch > self.caught_up.load(Ordering::Acquire) {
            true => self.catch_up().await.map(drop),
            false => Ok(()),
        }
    }

    /// As [`Repo::catch_up`], but what the index lacks it goes on lacking.
    pub(crate) async fn look_again(&self) -> Result<(), StorageError> {
        let _looking = self.looking.lock().await;
        self.look_at_packs().await.map(drop)
    }

    /// Lets the index look past packs that are condemned or gone. The caller
    /// sees to it that an older look does not undo what a newer one has found.
    async fn look_at_packs(&self) -> Result<Look, StorageError> {
        self.index.refresh()?;
        // In this order: what is condemned and deleted in between is then in
        // neither list.
        let epoch = self.database.epoch().await?;
        let condemned = self.database.condemned().await?;
        let mut packs = self.storage.packs().await?;
        packs.retain(|(name, _)| !condemned.contains(pack_key(name).as_ref()));
        let missing = self.index.compare(packs.iter().map(|(name, _)| *name).collect());
        Ok(Look { epoch, packs, missing })
    }
}

/// Records are made before the first pack or blob is: bytes without records
/// mean that these were lost, and new ones would say that all is well.
async fn check_database(storage: &Storage, at: &str) -> Result<(), OpenError> {
    // A failure to look is the database's to report.
    let is_there = match fs::metadata(storage.home.join(database::FILE)) {
        Ok(meta) => meta.len() > 0,
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    if is_there {
        return Ok(());
    }
    let holds = storage.holds_content().await;
    match holds.map_err(|source| OpenError::Storage { at: at.to_owned(), source })? {
        true => Err(OpenError::NoDatabase { at: at.to_owned() }),
        false => Ok(()),
    }
}

fn database_error(at: &str, error: MigrateError) -> OpenError {
    let at = at.to_owned();
    match error {
        MigrateError::VersionMissing(version) => {
            OpenError::Newer { at, found: format!("store.db with migration {version}") }
        }
        MigrateError::Execute(source) => {
            OpenError::Storage { at, source: database::failed(source) }
        }
        other => OpenError::Database { at, source: Box::new(other) },
    }
}
