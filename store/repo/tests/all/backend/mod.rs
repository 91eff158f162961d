//! What every place for the bytes of a store must do: one suite, and a line for
//! each kind of place. Another kind, such as the bucket of a server, is a
//! function that makes an empty [`Backend`] and one more line.

mod apart;
mod objects;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use store_repo::{OpenError, Repo, Storage};
use tempfile::TempDir;

use crate::common::{gpt_disk, noise, sparse};

/// An empty place for a store, and a folder for whatever a test needs.
pub struct Backend {
    folder: TempDir,
    /// Nothing, where the objects are in the folder of the records.
    objects: Option<Arc<dyn ObjectStore>>,
}

/// Runs the whole suite with what a function makes. `apart` says that objects
/// and records are not in one folder.
macro_rules! conformance {
    ($make:ident, apart) => {
        mod $make {
            conformance!(@whole $make);
            conformance!(@run $make, apart:
                a_store_is_opened_with_its_own_records_only,
                records_without_objects_are_not_made_a_new_store,
                a_bucket_with_something_else_stays_as_it_is,
                a_damaged_object_that_is_written_again_is_read_again,
                a_store_moves_there_from_a_folder,
            );
        }
    };
    ($make:ident) => {
        mod $make {
            conformance!(@whole $make);
        }
    };
    (@whole $make:ident) => {
        conformance!(@run $make, objects:
            what_is_put_is_there,
            ranges_are_the_bytes_that_there_are,
            what_is_missing_is_said_to_be_missing,
            a_list_is_whole_and_of_one_folder,
        );
        conformance!(@run $make, store:
            an_image_comes_back_as_it_went_in,
            the_index_is_built_again,
            garbage_goes_and_what_is_wanted_again_stays,
            two_handles_work_at_once,
            newer_and_damaged_stores_are_refused,
            an_object_that_vanished_is_named,
            files_of_others_are_left_alone,
        );
    };
    (@run $make:ident, $suite:ident: $($test:ident,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                crate::backend::$suite::$test(crate::backend::$make().await).await;
            }
        )*
    };
}

conformance!(folder);
conformance!(memory, apart);
conformance!(prefixed, apart);

async fn folder() -> Backend {
    Backend { folder: tempfile::tempdir().unwrap(), objects: None }
}

async fn memory() -> Backend {
    Backend::apart(Arc::new(InMemory::new()))
}

async fn prefixed() -> Backend {
    Backend::apart(Arc::new(PrefixStore::new(InMemory::new(), "site/images")))
}

impl Backend {
    fn apart(objects: Arc<dyn ObjectStore>) -> Backend {
        let folder = tempfile::tempdir().unwrap();
        Backend { folder, objects: Some(objects) }
    }

    /// A handle, as another process would have it.
    fn storage(&self) -> Storage {
        self.storage_with("records")
    }

    /// A handle with records in another folder.
    fn storage_with(&self, home: &str) -> Storage {
        let home = self.path(home);
        std::fs::create_dir_all(&home).unwrap();
        match &self.objects {
            None => Storage::folder(&home).unwrap(),
            Some(objects) => Storage::apart(Arc::clone(objects), &home, "the bucket").unwrap(),
        }
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        self.storage().objects
    }

    /// The store there, made if need be.
    async fn repo(&self) -> Arc<Repo> {
        match Repo::create(&self.storage()).await {
            Ok(()) | Err(OpenError::NotAStore { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        Arc::new(Repo::open_storage(self.storage()).await.unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A disk with 4 MiB that others of the same `shared` have too, and 1 MiB of its own.
    fn disk(&self, name: &str, shared: u64, own: u64) -> PathBuf {
        let (shared, own) = (noise(shared, 4 << 20), noise(own, 1 << 20));
        sparse(&self.path(name), 16 << 20, &[(0, &shared), (8 << 20, &own)])
    }

    fn gpt_disk(&self, name: &str, seed: u64) -> PathBuf {
        gpt_disk(&self.path(name), 512, seed)
    }
}

fn same(one: &Path, other: &Path) -> bool {
    std::fs::read(one).unwrap() == std::fs::read(other).unwrap()
}
