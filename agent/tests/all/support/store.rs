//! A real store that takes images, over HTTP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use store_registry::{Limits, Metrics, Uploads, routes, upload_routes};
use store_repo::{ImportOptions, Repo, Source};
use tokio::runtime::Runtime;
use wire::{Digest, Reference};

pub struct Store {
    pub base: String,
    pub repo: Arc<Repo>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Store {
    pub fn start() -> Store {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let at = folder.path().join("store").display().to_string();
        let repo = Arc::new(runtime.block_on(Repo::open_or_create(&at)).unwrap());
        let metrics = Arc::new(Metrics::default());
        let uploads = Uploads::new(Arc::clone(&repo), Limits::default());
        let router = routes(Arc::clone(&repo), Arc::clone(&metrics))
            .merge(upload_routes(Some(uploads), metrics));
        let bind = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(bind).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Store { base, repo, runtime, _folder: folder }
    }

    pub fn import(&self, disk: &Path, options: ImportOptions) -> Digest {
        let source = Source::Path(disk.to_owned());
        self.runtime.block_on(self.repo.import(source, options, |_| {})).unwrap().digest
    }

    pub fn envelope(&self, image: &Digest) -> store_format::Envelope {
        self.runtime.block_on(self.repo.envelope(image)).unwrap()
    }

    /// All images, with a name of those that have one.
    pub fn images(&self) -> BTreeMap<Digest, Option<Reference>> {
        let images = self.runtime.block_on(self.repo.images()).unwrap();
        images.into_iter().map(|image| (image.digest, image.reference)).collect()
    }

    pub fn export(&self, image: &Digest, to: &Path) {
        self.runtime.block_on(self.repo.export(image, to)).unwrap();
    }
}
