//! All that `ingot write` does with a store.

use std::sync::Arc;

use store_repo::{ReadError, Repo};
use wire::Digest;

/// For a disk that lacks everything.
pub async fn write(repo: &Arc<Repo>, image: &Digest) {
    let image = repo.open_image(image).await.unwrap();
    let work = tokio::task::spawn_blocking(move || {
        let mut lacking = image.lacking();
        for placed in image.extents() {
            let (at, extent) = placed.unwrap();
            lacking.push(at, extent).unwrap();
        }
        let plan = lacking.plan().unwrap();
        image.deliver::<ReadError>(&plan, |_| Ok(())).unwrap();
        image
    });
    work.await.unwrap().close().await;
}
