//! Images that are made when a machine needs them: which, one build for each,
//! how far it is, and what came of it.
//!
//! How an image is made is not known here: a [`Builder`] makes and stores it.

mod queue;
mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use wire::admin::UnixMs;
use wire::{Configuration, Digest, Facts, Making};

pub(crate) use queue::{LINES_MAX, OPEN_MAX, shown};
pub(crate) use work::{Builds, Shared};

/// Makes images from recipes. The server does it with the builder and the
/// store; a test has a table.
pub trait Builder: Send + Sync {
    /// What the recipe in this file makes for a machine with these facts. The
    /// error says what is wrong with the recipe, and where. Quick: it is asked
    /// whenever a machine checks in.
    fn plan(&self, recipe: &Path, facts: &Facts) -> Result<Box<dyn Plan>, String>;
}

/// One image that can be made.
pub trait Plan: Send + Sync {
    /// What it is made for.
    fn configuration(&self) -> &Configuration;

    /// What a machine makes of it on its own hardware, where the recipe says
    /// so: this is then the base of what the recipe makes.
    fn on_target(&self) -> Option<&Making> {
        None
    }

    /// Makes it and stores it as [`Configuration::reference`].
    fn build(self: Box<Self>, tell: Tell) -> Building;
}

/// Receives what a build tells while it runs, on any thread.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// A build, to be awaited; its error is the whole chain of causes.
pub type Building = Pin<Box<dyn Future<Output = Result<Built, String>> + Send>>;

/// What a build tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A part of it begins, in words.
    Stage(String),
    /// So much of that part is done.
    Share {
        /// Bytes dealt with.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// A line that it printed.
    Line(String),
}

/// An image that was made and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The image.
    pub image: Digest,
    /// What it was made from.
    pub provenance: BTreeMap<String, String>,
}

/// How builds are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    /// Most builds at a time.
    pub at_once: usize,
    /// How long after it a failure is believed: whoever stops a server often
    /// stops its children first, and that is no failure of a recipe.
    pub settle: Duration,
}

impl Default for BuildOptions {
    fn default() -> BuildOptions {
        BuildOptions { at_once: 1, settle: Duration::from_secs(1) }
    }
}

/// How the build of a configuration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// What was to be made.
    pub configuration: Configuration,
    /// What came of it.
    pub ending: Ending,
    /// When it began.
    pub began: UnixMs,
    /// When it ended.
    pub ended: UnixMs,
}

impl Record {
    /// Whether no image came of it.
    pub fn failed(&self) -> bool {
        matches!(self.ending, Ending::Failed { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// This image.
    Built(Built),
    /// None.
    Failed {
        /// Why.
        cause: String,
        /// The last lines that it printed.
        log: Vec<String>,
    },
}
