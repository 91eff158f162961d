//! Where a store is: from an address to what can be read and written.

use std::fs;
use std::path::{Path, PathBuf};

use object_store::path::Path as Key;

use crate::bucket;
use crate::open::OpenError;
use crate::storage::{Storage, StorageError};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    url: String,
    homes: Option<PathBuf>,
}

/// What an address says.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    /// Everything is in this folder.
    Folder(PathBuf),
    /// The objects are in a bucket, below a prefix.
    Bucket { bucket: String, prefix: Key },
}

/// What becomes of a folder that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Stays,
    IsMade,
}

impl From<&str> for Place {
    fn from(url: &str) -> Place {
        Place { url: url.to_owned(), homes: None }
    }
}

impl From<&String> for Place {
    fn from(url: &String) -> Place {
        Place::from(url.as_str())
    }
}

impl Place {
    /// The same place, with a folder for the records of stores whose bytes are
    /// in buckets: each has a folder of its own in it.
    pub fn with_homes(self, homes: &Path) -> Place {
        Place { homes: Some(homes.to_owned()), ..self }
    }

    /// Whether an address names a bucket, so that records need a folder.
    pub fn is_bucket(&self) -> bool {
        matches!(address(&self.url), Some(Address::Bucket { .. }))
    }

    pub(crate) fn storage(&self, missing: Missing) -> Result<Storage, OpenError> {
        match address(&self.url).ok_or_else(|| OpenError::Url { url: self.url.clone() })? {
            Address::Folder(path) => {
                self.folder(&path, missing)?;
                Storage::folder(&path).map_err(|source| self.failed(source))
            }
            Address::Bucket { bucket, prefix } => self.bucket(&bucket, prefix),
        }
    }

    fn folder(&self, path: &Path, missing: Missing) -> Result<(), OpenError> {
        match missing {
            Missing::Stays if path.is_dir() => Ok(()),
            Missing::Stays => Err(OpenError::Absent { at: self.url.clone() }),
            Missing::IsMade => fs::create_dir_all(path)
                .map_err(|e| self.failed(StorageError::new(&self.url, Box::new(e)))),
        }
    }

    fn bucket(&self, bucket: &str, prefix: Key) -> Result<Storage, OpenError> {
        let url = self.url.clone();
        let homes = self.homes.as_ref().ok_or(OpenError::NoHome { url: url.clone() })?;
        let home = homes.join(home_name(bucket, &prefix));
        // Whether there is a store is for the bucket to say, not for this folder.
        self.folder(&home, Missing::IsMade)?;
        let objects = bucket::open(bucket, prefix);
        let objects = objects.map_err(|source| OpenError::Bucket { url, source })?;
        Storage::apart(objects, &home, &self.url).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: StorageError) -> OpenError {
        OpenError::Storage { at: self.url.clone(), source }
    }
}

fn address(url: &str) -> Option<Address> {
    match url.split_once("://") {
        None => Some(Address::Folder(PathBuf::from(url))),
        Some(("file", path)) if path.starts_with('/') => Some(Address::Folder(path.into())),
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = Key::parse(prefix.strip_suffix('/').unwrap_or(prefix)).ok()?;
            is_bucket_name(bucket).then(|| Address::Bucket { bucket: bucket.to_owned(), prefix })
        }
        Some(_) => None,
    }
}

/// As far as a typing mistake, or an address with credentials or a port, goes.
fn is_bucket_name(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(of_name)
}

/// One folder for each bucket and prefix, recognisable by people.
fn home_name(bucket: &str, prefix: &Key) -> String {
    let prefix = prefix.as_ref().replace('%', "%25").replace('/', "%2F");
    match prefix.is_empty() {
        true => format!("s3-{bucket}"),
        false => format!("s3-{bucket}%2F{prefix}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn bucket(bucket: &str, prefix: &str) -> Option<Address> {
        Some(Address::Bucket { bucket: bucket.to_owned(), prefix: Key::from(prefix) })
    }

    #[test]
    fn addresses_are_folders_or_buckets() {
        let folder = |path: &str| Some(Address::Folder(PathBuf::from(path)));
        assert_eq!(address("a/b"), folder("a/b"));
        assert_eq!(address("/a b"), folder("/a b"));
        assert_eq!(address("file:///a"), folder("/a"));
        assert_eq!(address("s3://images"), bucket("images", ""));
        assert_eq!(address("s3://images/"), bucket("images", ""));
        assert_eq!(address("s3://my.images/site/two/"), bucket("my.images", "site/two"));
        for bad in [
            "file://a",
            "s3://",
            "s3:///x",
            "s3://key:secret@images/x",
            "s3://images:9000/x",
            "s3://images/a//b",
            "s3://images/../x",
            "s4://images",
            "https://images/x",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_bucket_and_prefix_has_records_of_its_own() {
        let of = |url: &str| match address(url) {
            Some(Address::Bucket { bucket, prefix }) => home_name(&bucket, &prefix),
            other => panic!("{other:?}"),
        };
        let urls = ["s3://a", "s3://a/b", "s3://a/b/c", "s3://a-b", "s3://a/b%2Fc", "s3://a/b-c"];
        let names: HashSet<_> = urls.iter().map(|url| of(url)).collect();
        assert_eq!(names.len(), urls.len());
        assert!(names.iter().all(|name| !name.contains('/')), "{names:?}");
        assert_eq!(of("s3://images/site"), "s3-images%2Fsite");
    }
}
