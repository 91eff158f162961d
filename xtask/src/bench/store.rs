//! What is measured of the store, and against what.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::files::{Files, differing_bytes};
use super::images::Images;
use super::measure::Site;
use super::table::{Limit, Table, Unit};
use super::tools::{Store, Tool};

/// One request may be made for as many bytes of a full installation.
const INSTALL_REQUEST_BYTES: u64 = 8 << 20;
/// One request may be made for as many bytes of an update.
const UPDATE_REQUEST_BYTES: u64 = 4 << 20;
/// What ingot may take, for an image of any size.
const MEMORY_BYTES: u64 = 256 << 20;

/// What is there to measure with.
pub struct Bench {
    /// Where commands run.
    pub site: Site,
    /// What they store.
    pub images: Images,
}

/// What one tool took, once per round.
#[derive(Default)]
struct Times {
    put: Vec<Duration>,
    get: Vec<Duration>,
}

impl Bench {
    /// Bytes that each tool stores for the three images.
    pub fn stored(&self, files: &mut Files, table: &mut Table) -> Result<()> {
        let mut stored = Vec::new();
        for tool in Tool::ALL {
            println!("storing three images: {}", tool.name());
            let store = Store::new(&self.site, tool)?;
            for image in &self.images.three() {
                store.put(image, name(image))?;
            }
            stored.push((tool, store.bytes()?));
        }
        let (_, ours) = stored.remove(0);
        let mut row = |against: &str, theirs, limit| {
            table.row("stored for three", Unit::Bytes, Some(ours), against, Some(theirs), limit);
        };
        for (tool, theirs) in stored {
            let limit = if tool == Tool::Casync { Limit::AtMost(0.75) } else { Limit::Less };
            row(tool.name(), theirs, limit);
        }
        println!("compressing every distinct file");
        let once = files.compressed(&self.images.three(), None)?;
        row("each distinct file, zstd -3", once, Limit::Less);
        Ok(())
    }

    /// Bytes that come with an image that was made again with one package more.
    pub fn new_bytes(&self, files: &mut Files, table: &mut Table) -> Result<()> {
        println!("storing one package more");
        let store = Store::new(&self.site, Tool::Ingot)?;
        let (base, more) = (self.images.base(), self.images.one_more());
        store.put(&base, name(&base))?;
        let before = store.bytes()?;
        store.put(&more, name(&more))?;
        let new = store.bytes()?.saturating_sub(before);
        let changed = files.compressed(&[more], Some(&base))?;
        let (figure, against) = ("new for one package more", "changed files, zstd -3");
        let limit = Limit::AtMost(1.25);
        table.row(figure, Unit::Bytes, Some(new), against, Some(changed), limit);
        Ok(())
    }

    /// Requests of an installation on an empty disk, and over the base.
    pub fn requests(&self, table: &mut Table) -> Result<()> {
        println!("planning an installation and an update");
        let store = Store::new(&self.site, Tool::Ingot)?;
        let image = self.images.rebuilt();
        store.put(&image, name(&image))?;
        let folder = self.site.scratch()?;
        let empty = folder.path().join("empty");
        std::fs::File::create(&empty)?.set_len(image.metadata()?.len())?;
        for (figure, disk, request_bytes) in [
            ("requests of an installation", empty, INSTALL_REQUEST_BYTES),
            ("requests of an update", self.images.base(), UPDATE_REQUEST_BYTES),
        ] {
            let mut plan = store.command(&["write", "--plan", "--json", name(&image)]);
            let plan = self.site.run(plan.arg(&disk), &[])?;
            let plan: Value = serde_json::from_slice(&plan.stdout).context("no plan in JSON")?;
            let fetched = plan["fetch_bytes"].as_u64();
            let allowed = fetched.map(|bytes| bytes.div_ceil(request_bytes));
            let against = format!("1 per {} MiB", request_bytes >> 20);
            let requests = plan["requests"].as_u64();
            table.row(figure, Unit::Count, requests, &against, allowed, Limit::AtMost(1.0));
        }
        Ok(())
    }

    /// Times of storing and restoring the base, the tools taking turns.
    pub fn times(&self, rounds: u32, table: &mut Table) -> Result<()> {
        let mut times: [Times; Tool::ALL.len()] = Default::default();
        let (mut again, mut hashed) = (Vec::new(), Vec::new());
        let image = self.images.base();
        for round in 1..=rounds {
            for (tool, times) in Tool::ALL.into_iter().zip(&mut times) {
                println!("storing and restoring, round {round} of {rounds}: {}", tool.name());
                let store = Store::new(&self.site, tool)?;
                times.put.push(store.put(&image, name(&image))?.wall);
                if tool == Tool::Ingot {
                    again.push(store.put(&image, "again")?.wall);
                }
                times.get.push(self.restored(&store, &image)?);
            }
            let mut b3sum = std::process::Command::new("b3sum");
            hashed.push(self.site.run(b3sum.arg(&image), &[&image])?.wall);
        }
        let [ours, peers @ ..] = times;
        let mut row = |figure, ours: &[Duration], against, theirs: &[Duration], limit| {
            let (ours, theirs) = (median_ms(ours), median_ms(theirs));
            table.row(figure, Unit::Milliseconds, ours, against, theirs, limit);
        };
        let peers: Vec<(Tool, Times)> = Tool::ALL.into_iter().skip(1).zip(peers).collect();
        for (tool, peer) in &peers {
            let limit = if *tool == Tool::Zstd { Limit::AtMost(1.15) } else { Limit::None };
            row("first ingest", &ours.put, tool.name(), &peer.put, limit);
        }
        row("ingest of what is stored", &again, "b3sum", &hashed, Limit::AtMost(1.2));
        for (tool, peer) in &peers {
            let limit = if *tool == Tool::Zstd { Limit::AtMost(1.1) } else { Limit::Less };
            row("restore to a file", &ours.get, tool.restoring(), &peer.get, limit);
        }
        Ok(())
    }

    /// Bytes written over a disk that has the base.
    pub fn writes(&self, table: &mut Table) -> Result<()> {
        let store = Store::new(&self.site, Tool::Ingot)?;
        let base = self.images.base();
        store.put(&base, name(&base))?;
        for image in [self.images.one_more(), self.images.rebuilt(), self.images.in_place()] {
            let name = name(&image);
            println!("writing {name} over base");
            store.put(&image, name)?;
            let (folder, exported) = (self.site.scratch()?, self.site.scratch()?);
            let disk = folder.path().join("disk");
            std::fs::copy(&base, &disk)?;
            // Not the file it came from: what that has in free blocks is no part of the image.
            let (_, wanted) = store.get(name, exported.path())?;
            ensure!(differing_bytes(&disk, &base)? == 0, "the disk does not hold the base");
            let differing = differing_bytes(&base, &wanted)?;
            let mut write = store.command(&["write", "--quiet", name]);
            let written = self.site.run(write.arg(&disk), &[&disk])?.written;
            ensure!(differing_bytes(&disk, &wanted)? == 0, "`ingot write` made another {name}");
            let figure = format!("written over base: {name}");
            let (against, limit) = ("4 KiB blocks that differ", Limit::AtMost(1.05));
            table.row(&figure, Unit::Bytes, Some(written), against, Some(differing), limit);
        }
        Ok(())
    }

    /// The most memory that ingot took in all that was measured.
    pub fn memory(&self, table: &mut Table) {
        let limit = Limit::AtMost(1.0);
        let (ours, most) = (self.site.ingot_memory.get(), Some(MEMORY_BYTES));
        table.row("memory, the most of any run", Unit::Bytes, Some(ours), "256 MiB", most, limit);
    }

    /// How long a store takes to give the image back, the same bytes.
    fn restored(&self, store: &Store<'_>, image: &Path) -> Result<Duration> {
        let folder = self.site.scratch()?;
        let (taken, file) = store.get(name(image), folder.path())?;
        let differing = differing_bytes(&file, image)?;
        ensure!(differing == 0, "{differing} bytes of the restored image are not what was stored");
        Ok(taken.wall)
    }
}

/// What an image is stored as: its file's name.
fn name(image: &Path) -> &str {
    image.file_stem().and_then(|stem| stem.to_str()).unwrap_or("image")
}

/// The one in the middle; of an even number the slower.
fn median_ms(times: &[Duration]) -> Option<u64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).and_then(|time| u64::try_from(time.as_millis()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_time_in_the_middle() {
        let of = |ms: &[u64]| {
            median_ms(&ms.iter().map(|&ms| Duration::from_millis(ms)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some(7));
        assert_eq!(of(&[900, 1, 5]), Some(5));
        assert_eq!(of(&[4, 3]), Some(4));
    }

    #[test]
    fn an_image_is_named_after_its_file() {
        assert_eq!(name(Path::new("/images/in-place.raw")), "in-place");
    }
}
