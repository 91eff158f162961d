//! From what was typed to what is meant: where the store is, which server is
//! asked, how results are printed.

use std::env;
use std::path::PathBuf;

use anyhow::Context as _;
use store_repo::Place;

use crate::args::Global;
use crate::exit::{Code, Failure};
use crate::render::Out;

/// Port that `ingot serve` listens on, unless it is told otherwise.
pub const PORT: u16 = 8460;

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// How results are printed.
    pub out: Out,
    /// 0, 1 or 2 and more: how much is said beside the results.
    pub verbose: u8,
    store: Option<String>,
    server: Option<String>,
    cache: Option<PathBuf>,
}

impl Context {
    /// Resolves the global options.
    pub fn new(global: &Global) -> Context {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Context {
            out: Out::new(global),
            verbose: global.verbose,
            store: given(&global.store),
            server: given(&global.server),
            cache: global.cache.clone(),
        }
    }

    /// Where the store is: as given, else in the data directory.
    pub fn store_url(&self) -> anyhow::Result<String> {
        match &self.store {
            Some(store) => Ok(store.clone()),
            None => Ok(data_folder()?.join("store").to_string_lossy().into_owned()),
        }
    }

    /// The store as what can be opened.
    pub fn store(&self) -> anyhow::Result<Place> {
        place(&self.store_url()?)
    }

    /// The store, only where it was named on the command line or in the environment.
    pub fn store_given(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// Where what can be fetched or built again is kept.
    pub fn cache_folder(&self) -> anyhow::Result<PathBuf> {
        match &self.cache {
            Some(cache) => Ok(cache.clone()),
            None => folder("XDG_CACHE_HOME", ".cache", "/var/cache/ingot"),
        }
    }

    /// Where builds keep what later ones use again.
    pub fn build_folder(&self) -> anyhow::Result<PathBuf> {
        Ok(self.cache_folder()?.join("build"))
    }

    /// The server to ask.
    pub fn server_url(&self) -> String {
        let url = self.server.clone().unwrap_or_else(|| format!("http://127.0.0.1:{PORT}"));
        url.trim_end_matches('/').to_owned()
    }
}

/// The store at an address. The records of one in a bucket are in the data
/// directory.
pub fn place(url: &str) -> anyhow::Result<Place> {
    let place = Place::from(url);
    match place.is_bucket() {
        true => Ok(place.with_homes(&data_folder()?.join("remote"))),
        false => Ok(place),
    }
}

/// Where ingot keeps what must not be lost.
pub fn data_folder() -> anyhow::Result<PathBuf> {
    folder("XDG_DATA_HOME", ".local/share", "/var/lib/ingot")
}

/// Root's folders are those of a system service; everyone else has their own.
fn folder(xdg: &str, in_home: &str, of_root: &str) -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(of_root));
    }
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute(xdg)
        .or_else(|| absolute("HOME").map(|home| home.join(in_home)))
        .map(|base| base.join("ingot"))
        .ok_or_else(|| {
            Failure::new(Code::Usage, format!("neither {xdg} nor HOME names a folder"))
                .next("set HOME, or say where things are with --store and --cache")
        })
        .context("cannot tell where your folders are")
}
