//! The configuration with every default filled in.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{Boot, Config};
use crate::context::{Context, data_folder};

/// What is served, from where, to whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where HTTP is answered.
    pub listen: SocketAddr,
    /// The URL at which machines reach it, where it was said.
    pub advertise: Option<String>,
    /// Folder or URL of the store.
    pub store: String,
    /// Whether images may be stored over HTTP.
    pub uploads: bool,
    /// Folder of the records.
    pub state: PathBuf,
    /// The policy's file.
    pub policy: Option<PathBuf>,
    /// Folder of what builds use again.
    pub build_cache: PathBuf,
    /// Most builds at a time.
    pub builds_at_once: usize,
    /// Machines that start over the network.
    pub boot: Option<Boot>,
    /// Folder of the boot assets.
    pub assets: PathBuf,
}

impl Settings {
    /// What the command line says about the store wins over the file.
    pub fn new(config: Config, context: &Context) -> anyhow::Result<Settings> {
        let store = match (context.store_given(), config.store.url) {
            (Some(given), _) => given.to_owned(),
            (None, Some(url)) => url,
            (None, None) => context.store_url()?,
        };
        let state = match config.state.folder {
            Some(folder) => folder,
            None => data_folder()?.join("state"),
        };
        let assets = match config.boot.as_ref().and_then(|boot| boot.assets.clone()) {
            Some(assets) => assets,
            None => data_folder()?.join("assets"),
        };
        Ok(Settings {
            listen: config.http.listen,
            advertise: config.http.advertise,
            store,
            uploads: config.store.uploads,
            state,
            policy: config.policy.map(|policy| policy.file),
            build_cache: context.build_folder()?,
            builds_at_once: config.build.at_once.get(),
            boot: config.boot,
            assets,
        })
    }
}
