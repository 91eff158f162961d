//! What takes long to make and is the same for every scenario: a store with
//! built images, and boot assets. Made once per version of the binaries, shared
//! by all test processes.

use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tests_rig::cached;

use crate::Product;

/// A store with images, and boot assets; both only to be read.
#[derive(Debug, Clone)]
pub struct Stock {
    /// The store's folder.
    pub store: PathBuf,
    /// The boot assets' folder.
    pub assets: PathBuf,
}

/// The recipe of this name in the tree.
pub fn recipe(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("recipes").join(format!("{name}.toml"))
}

impl Stock {
    /// The images `demo:latest` and `web:latest` of the recipes in the tree, and
    /// boot assets with the small kernel for virtual machines.
    pub fn for_tests(product: &Product) -> Result<Stock> {
        let ingot = fingerprint(&[&product.ingot])?;
        let recipes = ["demo", "web"].map(recipe);
        let made = fingerprint(&[&product.ingot, &recipes[0], &recipes[1]])?;
        let store = cached(&format!("store-{made}"), |store| {
            let store = store.to_string_lossy();
            for name in ["demo", "web"] {
                let recipe = recipe(name);
                let tag = format!("{name}:latest");
                product.run(&[
                    "build",
                    &recipe.to_string_lossy(),
                    "-t",
                    &tag,
                    "--store",
                    &store,
                ])?;
            }
            Ok(())
        })?;
        let agent = fingerprint(&[&product.agent])?;
        let assets = cached(&format!("assets-{ingot}-{agent}"), |assets| {
            let (agent, out) = (product.agent.to_string_lossy(), assets.to_string_lossy());
            let kernel = ["--kernel", "linux-image-cloud-amd64"];
            product.run(
                &[&["boot", "assets", "--agent", &agent, "--out", &out], &kernel[..]].concat(),
            )?;
            Ok(())
        })?;
        Ok(Stock { store, assets })
    }

    /// A copy of the store that a scenario may change.
    pub fn copy_store(&self, to: &Path) -> Result<PathBuf> {
        let target = to.join("store");
        let status = std::process::Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .args([&self.store, &target])
            .status()?;
        anyhow::ensure!(status.success(), "cannot copy {}", self.store.display());
        Ok(target)
    }
}

/// Tells one state of these files from another.
fn fingerprint(files: &[&Path]) -> Result<String> {
    let mut hasher = std::hash::DefaultHasher::new();
    for file in files {
        let bytes =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        bytes.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
