//! Why bytes could not be read from or written to a store.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path as Key;

/// What the backend said. Shared, as is what it was asked for.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why bytes could not be read from or written to the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// No space left.
    #[error(
        "the store has no space left for {key}: free some and try again; nothing in it is lost"
    )]
    Full {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// Not allowed.
    #[error(
        "the store refuses access to {key}: it is read-only, or belongs to another user, or does \
         not take the credentials"
    )]
    Denied {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// No such file.
    #[error("{key} is missing from the store: `ingot check` says which images need it")]
    Missing {
        /// File in the store.
        key: String,
    },
    /// Nothing to write it into.
    #[error(
        "the bucket that {key} should be written to does not exist: make it, or correct its name"
    )]
    NoBucket {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// No answer.
    #[error(
        "the server of the store does not answer for {key}: check its address and that it runs, \
         and try again"
    )]
    Unreachable {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// A file is longer than it can be.
    #[error("{key} has {len} bytes, more than it can have: it is not what its name says")]
    TooLong {
        /// File in the store.
        key: String,
        /// Its length.
        len: u64,
    },
    /// Others write to the database.
    #[error("others have been writing to the store's records, {key}, for long: try again")]
    Busy {
        /// File in the store.
        key: String,
        /// What the database said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The database is no database, or not any more.
    #[error(
        "the store's records, {key}, are damaged: restore the file from a backup \
         (docs/backends.md); packs and blobs stay as they are"
    )]
    Ruined {
        /// File in the store.
        key: String,
        /// What the database said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The database gave another error.
    #[error("the store's records, {key}, could not be used: try again, and look at the cause")]
    Database {
        /// File in the store.
        key: String,
        /// What the database said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// Anything else.
    #[error("the store cannot access {key}: the cause says why, and trying again harms nothing")]
    Other {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Cause,
    },
}

impl StorageError {
    pub(crate) fn new(key: &str, source: Box<dyn Error + Send + Sync>) -> Self {
        let key = key.to_owned();
        let kind = kind(source.as_ref());
        let source = Cause::from(source);
        match kind {
            Kind::Full => StorageError::Full { key, source },
            Kind::Denied => StorageError::Denied { key, source },
            Kind::Unreachable => StorageError::Unreachable { key, source },
            Kind::Other => StorageError::Other { key, source },
        }
    }

    /// What the failure of an object store means.
    pub(crate) fn object(key: &Key, source: object_store::Error) -> StorageError {
        use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
        match source {
            NotFound { .. } => StorageError::Missing { key: key.to_string() },
            PermissionDenied { .. } | Unauthenticated { .. } if kind(&source) == Kind::Other => {
                StorageError::Denied { key: key.to_string(), source: Arc::new(source) }
            }
            _ => StorageError::new(key.as_ref(), Box::new(source)),
        }
    }

    /// As [`StorageError::object`], of a write.
    pub(crate) fn write(key: &Key, source: object_store::Error) -> StorageError {
        match source {
            object_store::Error::NotFound { .. } => {
                StorageError::NoBucket { key: key.to_string(), source: Arc::new(source) }
            }
            _ => StorageError::object(key, source),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Denied,
    Unreachable,
    Other,
}

/// The meaning of the first of a chain of causes that has one.
fn kind(error: &(dyn Error + 'static)) -> Kind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let meaning = if let Some(error) = error.downcast_ref::<io::Error>() {
            of_io(error.kind())
        } else if let Some(error) = error.downcast_ref::<HttpError>() {
            of_http(error.kind())
        } else {
            Kind::Other
        };
        if meaning != Kind::Other {
            return meaning;
        }
        cause = error.source();
    }
    match says_full(error) {
        true => Kind::Full,
        false => Kind::Other,
    }
}

fn of_io(kind: ErrorKind) -> Kind {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::Full,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Kind::Denied,
        _ => Kind::Other,
    }
}

fn of_http(kind: HttpErrorKind) -> Kind {
    match kind {
        HttpErrorKind::Connect
        | HttpErrorKind::Request
        | HttpErrorKind::Timeout
        | HttpErrorKind::Interrupted => Kind::Unreachable,
        _ => Kind::Other,
    }
}

/// S3 knows no full bucket, its likes do; the crate tells the answer's status
/// and body as text only.
fn says_full(error: &(dyn Error + 'static)) -> bool {
    const SAY_SO: [&str; 3] = ["507 Insufficient Storage", "QuotaExceeded", "StorageFull<"];
    let text = wire::chain(error);
    SAY_SO.iter().any(|words| text.contains(words))
}
