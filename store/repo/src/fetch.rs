//! Reading what somebody lacks of an image, every chunk proven, in memory that
//! does not depend on how much that is.

mod deliver;
mod lacking;

use std::sync::Arc;

use store_format::Extent;
use tokio::runtime::Handle;
use wire::Digest;

use crate::lease::Lease;
use crate::open::Repo;
use crate::read::{ReadError, Reading};

pub use lacking::{FetchPlan, Lacking};

/// An image of which any part can be read. Nothing of it is deleted before it
/// is closed or dropped.
///
/// Its calls wait for the store: use it on a thread that may, such as those of
/// [`tokio::task::spawn_blocking`].
pub struct OpenImage {
    repo: Arc<Repo>,
    reading: Reading,
    lease: Option<Lease>,
    runtime: Handle,
}

impl Repo {
    /// Opens an image for reading parts of it.
    pub async fn open_image(self: &Arc<Self>, image: &Digest) -> Result<OpenImage, ReadError> {
        let envelope = self.envelope(image).await?;
        let (reading, lease) = self.begin_reading(image, None).await?;
        reading.table.check(&envelope)?;
        Ok(OpenImage { repo: Arc::clone(self), reading, lease, runtime: Handle::current() })
    }
}

impl OpenImage {
    /// What the image is made of: each extent with its offset on the disk, by
    /// rising offset, without gaps.
    pub fn extents(&self) -> impl Iterator<Item = Result<(u64, Extent), ReadError>> + '_ {
        self.reading.table.extents()
    }

    /// The image is not needed any more.
    pub async fn close(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.end().await;
        }
    }
}

impl Drop for OpenImage {
    /// The lease can be ended from any thread then.
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.lease.take();
    }
}
