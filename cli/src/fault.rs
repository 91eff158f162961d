//! What the store's errors mean for the exit code, and what to do next.

use std::error::Error;

use store_remote::{FetchError, PushError};
use store_repo::{
    DonorError, ExportError, GarbageError, ImportError, NameError, OpenError, ReadError,
    RepairError, StorageError, UsageError,
};

use crate::exit::{Code, Failure};

/// An error of a library with a place in the table of exit codes.
pub trait Fault: Error + Send + Sync + Sized + 'static {
    /// Its code.
    fn code(&self) -> Code;

    /// What to do next, where its own text does not say so.
    fn next(&self) -> Option<&'static str> {
        None
    }
}

/// Says what was tried when a library failed.
pub trait Doing<T> {
    /// `what` is a lower-case fragment: `cannot show web:1`.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> anyhow::Result<T>;
}

impl<T, E: Fault> Doing<T> for Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> anyhow::Result<T> {
        self.map_err(|error| {
            let failure = Failure::new(error.code(), what());
            let failure = match error.next() {
                Some(next) => failure.next(next),
                None => failure,
            };
            anyhow::Error::new(error).context(failure)
        })
    }
}

impl Fault for OpenError {
    fn code(&self) -> Code {
        match self {
            OpenError::Absent { .. } => Code::NotFound,
            OpenError::Url { .. } | OpenError::NoHome { .. } => Code::Usage,
            OpenError::Bucket { .. } => Code::Usage,
            OpenError::Marker { .. } => Code::Damaged,
            OpenError::Storage { source, .. } => source.code(),
            _ => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            OpenError::Storage { source: StorageError::Unreachable { .. }, .. } => {
                Some("AWS_ENDPOINT_URL names the server of a bucket (docs/backends.md)")
            }
            OpenError::Storage { .. } => Some(
                "check the folder's permissions or the bucket's AWS_… variables, or name another \
                 store with --store",
            ),
            _ => Some("name another store with --store or INGOT_STORE"),
        }
    }
}

impl Fault for NameError {
    fn code(&self) -> Code {
        match self {
            NameError::Unknown { .. } => Code::NotFound,
            NameError::HasDigest { .. } => Code::Usage,
            NameError::Storage(error) => error.code(),
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            NameError::Unknown { .. } => Some("`ingot ls` lists the images"),
            NameError::Storage(error) => error.next(),
            _ => None,
        }
    }
}

impl Fault for ReadError {
    fn code(&self) -> Code {
        match self {
            ReadError::Unknown { .. } => Code::NotFound,
            ReadError::Storage(error) => error.code(),
            ReadError::Broken | ReadError::Scratch { .. } => Code::Failed,
            ReadError::Range { .. } => Code::Usage,
            _ => Code::Damaged,
        }
    }
}

impl Fault for GarbageError {
    fn code(&self) -> Code {
        match self {
            GarbageError::Image { source, .. } | GarbageError::Pack(source) => source.code(),
            GarbageError::Storage(error) => error.code(),
            GarbageError::Busy | GarbageError::Restless | GarbageError::Lapsed => Code::Failed,
            GarbageError::Broken => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            GarbageError::Storage(error) => error.next(),
            _ => None,
        }
    }
}

impl Fault for RepairError {
    fn code(&self) -> Code {
        match self {
            RepairError::Storage(error) => error.code(),
            RepairError::Unread { .. } => Code::Damaged,
            _ => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            RepairError::Storage(error) => error.next(),
            _ => None,
        }
    }
}

impl Fault for DonorError {
    fn code(&self) -> Code {
        match self {
            DonorError::Store(error) => error.code(),
            DonorError::Disk { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            DonorError::Disk { .. } => Code::Failed,
            DonorError::Storage { source, .. } => source.code(),
        }
    }

    fn next(&self) -> Option<&'static str> {
        Some("--from takes the folder of another store, or the raw image of a disk")
    }
}

impl Fault for UsageError {
    fn code(&self) -> Code {
        match self {
            UsageError::Image { source, .. } => source.code(),
            UsageError::Storage(error) => error.code(),
            UsageError::Broken => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            UsageError::Storage(error) => error.next(),
            _ => None,
        }
    }
}

impl Fault for StorageError {
    fn code(&self) -> Code {
        match self {
            StorageError::Missing { .. } | StorageError::TooLong { .. } => Code::Damaged,
            _ => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            StorageError::Denied { .. } => {
                Some("make the store writable for you, or name another store with --store")
            }
            _ => None,
        }
    }
}

impl Fault for ImportError {
    fn code(&self) -> Code {
        match self {
            ImportError::Source { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            ImportError::Reference { .. } => Code::Usage,
            ImportError::Storage(error) => error.code(),
            _ => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            ImportError::Source { .. } => {
                Some("name a raw disk image, a device, or - for a stream")
            }
            ImportError::Storage(error) => error.next(),
            _ => None,
        }
    }
}

impl Fault for ExportError {
    fn code(&self) -> Code {
        match self {
            ExportError::Read(error) => error.code(),
            ExportError::TooSmall { .. } => Code::Refused,
            _ => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            ExportError::Write { .. } => {
                Some("check that its folder exists, is yours, and has room")
            }
            _ => None,
        }
    }
}

impl Fault for FetchError {
    fn code(&self) -> Code {
        match self {
            FetchError::Address { .. } => Code::Usage,
            FetchError::Transport { .. } | FetchError::Stalled { .. } => Code::Unreachable,
            FetchError::Status { status: 500..=599, .. } => Code::Unreachable,
            FetchError::Lost { source } | FetchError::GaveUp { source, .. } => source.code(),
            _ => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self.code() {
            Code::Unreachable => Some(
                "check that `ingot serve` runs there, and push again: what arrived is not sent twice",
            ),
            _ => None,
        }
    }
}

impl Fault for PushError<ReadError> {
    fn code(&self) -> Code {
        match self {
            PushError::Fetch(error) => error.code(),
            PushError::Source(error) => error.code(),
            PushError::Changed { .. } => Code::Damaged,
            PushError::TooLarge { .. } => Code::Refused,
            PushError::Seal(_) => Code::Failed,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            PushError::Fetch(error) => error.next(),
            _ => None,
        }
    }
}
