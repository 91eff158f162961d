//! The images that are measured: made by a script, or somebody's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::shell::run;

/// Makes the images; the recipe that they are kept under.
const RECIPE: &str = include_str!("images.sh");

/// Raw disks that have much in common.
pub struct Images {
    folder: PathBuf,
}

impl Images {
    /// Those of a folder.
    pub fn taken(folder: &Path) -> Result<Images> {
        let folder = folder.canonicalize().with_context(|| format!("no {}", folder.display()))?;
        let images = Images { folder };
        for image in images.three().into_iter().chain([images.one_more()]) {
            ensure!(image.is_file(), "there is no {}", image.display());
        }
        Ok(images)
    }

    /// Those of the recipe: from `cache`, or made.
    pub fn made(cache: &Path) -> Result<Images> {
        let key = blake3::hash(RECIPE.as_bytes()).to_hex();
        let folder = cache.join(format!("images-{}", &key[..16]));
        if !folder.is_dir() {
            remove_images(cache)?;
            make(cache, &folder)?;
        }
        Images::taken(&folder)
    }

    /// The system that the others grew from.
    pub fn base(&self) -> PathBuf {
        self.image("base")
    }

    /// The base, made again from nothing with two servers.
    pub fn rebuilt(&self) -> PathBuf {
        self.image("rebuilt")
    }

    /// The base, with the same two servers installed while it was mounted.
    pub fn in_place(&self) -> PathBuf {
        self.image("in-place")
    }

    /// The base, made again from nothing with one package more.
    pub fn one_more(&self) -> PathBuf {
        self.image("one-more")
    }

    /// Those whose storage is compared.
    pub fn three(&self) -> [PathBuf; 3] {
        [self.base(), self.rebuilt(), self.in_place()]
    }

    fn image(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.raw"))
    }
}

/// Runs the recipe. Its mounts are in a namespace that ends with it.
fn make(cache: &Path, folder: &Path) -> Result<()> {
    println!("making the images of the bench; this takes minutes, once");
    let part = cache.join("images-part");
    fs::create_dir(&part).with_context(|| format!("cannot create {}", part.display()))?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", RECIPE, "images.sh"]);
    run(unshare.arg(&part).arg(cache.join("debs"))).context("cannot make the images")?;
    fs::rename(&part, folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Removes what another recipe, or a run that was stopped, has left.
fn remove_images(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("images-") {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
