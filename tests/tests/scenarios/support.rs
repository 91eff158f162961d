//! What scenarios share: a site on the shared stock, and comparing disks.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Product, Site, Stock};

/// The route that image content leaves the server by.
pub const PACKS_ROUTE: &str = "/v1/packs/{pack}";

/// A site with a folder that goes away after the test.
pub struct Scene {
    /// Declared before the folder, so that nothing runs in it any more when it goes.
    pub site: Site,
    pub product: Product,
    pub stock: Stock,
    pub folder: tempfile::TempDir,
}

impl Scene {
    /// On the shared store.
    pub fn new() -> Result<Scene> {
        Scene::with_store(|stock, _| Ok(stock.store.clone()))
    }

    /// On a copy of the shared store, which the scenario may change.
    pub fn on_own_store() -> Result<Scene> {
        Scene::with_store(|stock, folder| stock.copy_store(folder))
    }

    fn with_store(
        store: impl FnOnce(&Stock, &Path) -> Result<std::path::PathBuf>,
    ) -> Result<Scene> {
        let product = Product::for_tests()?;
        let stock = Stock::for_tests(&product)?;
        let folder = tempfile::tempdir()?;
        let store = store(&stock, folder.path())?;
        let site = Site::new(&product, &store, &stock.assets, folder.path())?;
        Ok(Scene { site, product, stock, folder })
    }

    /// The newest run, with its steps.
    pub fn latest_run(&self) -> Result<Value> {
        let runs = self.site.runs()?;
        let id = runs.first().and_then(|run| run["id"].as_str()).context("no run on record")?;
        self.site.run(id)
    }

    /// The run, where there must be one only.
    pub fn only_run(&self) -> Result<Value> {
        let runs = self.site.runs()?.len();
        ensure!(runs == 1, "{runs} runs on record");
        self.latest_run()
    }
}

/// A policy rule.
pub fn rule(name: &str, when: &str, image: &str, start: &str) -> String {
    let when = if when.is_empty() { String::new() } else { format!("when = \"{when}\"\n") };
    format!("[[rule]]\nname = \"{name}\"\n{when}image = \"{image}\"\nstart = \"{start}\"\n\n")
}

/// Fails unless the disk holds the image: boot code, every byte from the first
/// to the last partition, a valid partition table for the disk's own size.
pub fn same_as_image(scene: &Scene, reference: &str, disk: &Path) -> Result<()> {
    let image = scene.folder.path().join("image.raw");
    let store = scene.stock.store.to_string_lossy();
    scene.product.run(&["export", reference, &image.to_string_lossy(), "--store", &store])?;
    let (image, installed) = (File::open(&image)?, File::open(disk)?);
    same_bytes(&image, &installed, 0, 440)?;
    let (first, last) = partitions_span(&scene.folder.path().join("image.raw"))?;
    same_bytes(&image, &installed, first, last)?;
    let verdict = output("sfdisk", &["--verify", &disk.to_string_lossy()])?;
    ensure!(verdict.contains("No errors detected"), "sfdisk says: {verdict}");
    let (_, grown) = partitions_span(disk)?;
    let disk_bytes = installed.metadata()?.len();
    ensure!(disk_bytes - grown <= 2 << 20, "the last partition ends at {grown} of {disk_bytes}");
    Ok(())
}

/// Where the first partition begins and the last one ends, in bytes.
fn partitions_span(disk: &Path) -> Result<(u64, u64)> {
    let table = output("sfdisk", &["--json", &disk.to_string_lossy()])?;
    let table: Value = serde_json::from_str(&table)?;
    let partitions = table["partitiontable"]["partitions"].as_array().context("no partitions")?;
    let number = |partition: &Value, key: &str| partition[key].as_u64().unwrap_or(0);
    let first = partitions.iter().map(|p| number(p, "start")).min().unwrap_or(0);
    let last = partitions.iter().map(|p| number(p, "start") + number(p, "size")).max().unwrap_or(0);
    Ok((first * 512, last * 512))
}

fn same_bytes(a: &File, b: &File, from: u64, to: u64) -> Result<()> {
    const STEP: u64 = 1 << 20;
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = from;
    while at < to {
        let len = usize::try_from(STEP.min(to - at))?;
        a.read_exact_at(&mut one[..len], at)?;
        b.read_exact_at(&mut other[..len], at)?;
        ensure!(one[..len] == other[..len], "they differ in the MiB from byte {at} on");
        at += STEP;
    }
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Flips one bit in the middle of the largest pack below the store's folder.
pub fn corrupt_a_pack(store: &Path) -> Result<()> {
    fn files(folder: &Path, found: &mut Vec<(u64, std::path::PathBuf)>) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                files(&path, found)?;
            } else {
                found.push((path.metadata()?.len(), path));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    files(&store.join("packs"), &mut found)?;
    let (len, path) = found.into_iter().max().context("the store has no pack")?;
    let pack = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    pack.read_exact_at(&mut byte, len / 2)?;
    pack.write_all_at(&[byte[0] ^ 0x10], len / 2)?;
    Ok(())
}

/// Fails if the disk has boot code or a partition table.
pub fn nothing_bootable(disk: &Path) -> Result<()> {
    let disk = File::open(disk)?;
    let mut start = vec![0; 34 * 512];
    disk.read_exact_at(&mut start, 0)?;
    ensure!(start.iter().all(|byte| *byte == 0), "boot code or a table is on the disk");
    Ok(())
}
