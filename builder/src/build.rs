//! From a recipe to a disk: looks up what was built before, makes what was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use store_format::BootSpec;
use wire::{Configuration, Digest, Facts};

use crate::apt::{Apt, Sources};
use crate::base::{self, BaseError};
use crate::cache::{Cache, CacheError, Kind, Lock, at};
use crate::check::{self, CheckError};
use crate::configuration::Given;
use crate::disk::{self, DiskError};
use crate::geometry::ROOT_PARTITION;
use crate::identity::Identities;
use crate::key::Key;
use crate::preflight::{Missing, preflight, sentence};
use crate::progress::{Outcome, Progress, Stage, staged};
use crate::recipe::{Firmware, Recipe, RootSize};
use crate::sandbox::Access;
use crate::step::{self, StepError};
use crate::system::{self, Prepared};
use crate::tool::{self, Log, ToolError};
use crate::tree::{self, Layer, Place, TreeError};
use crate::{EPOCH, KERNEL};

/// Name of the disk in its cache entry.
const DISK: &str = "disk.raw";

/// How to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for results that later builds use again.
    pub cache: PathBuf,
    /// Look for newer packages when what is cached is older than this.
    pub age_max: Duration,
    /// Use nothing that is cached, except downloaded packages.
    pub refresh: bool,
    /// Facts of the machines that the image is for; of these, the recipe's
    /// scripts are given those that it uses.
    pub facts: Facts,
}

impl Options {
    /// A week, after which Debian has had security updates.
    pub const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

    /// With a cache folder and the defaults.
    pub fn new(cache: PathBuf) -> Options {
        Options { cache, age_max: Options::AGE_MAX, refresh: false, facts: Facts::new() }
    }
}

/// A finished disk and what an image's envelope says of it.
#[derive(Debug)]
pub struct BuiltImage {
    /// The raw disk, in the build cache. It stays while this value lives: drop
    /// this before building the same recipe with `refresh`.
    pub path: PathBuf,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Size of its sectors in bytes.
    pub sector_bytes: u32,
    /// What to start it with.
    pub boot: BootSpec,
    /// Number of the partition that grows to the end of the disk.
    pub grow: u32,
    /// What the image was built for.
    pub configuration: BTreeMap<String, String>,
    /// What it was built from.
    pub provenance: BTreeMap<String, String>,
    /// Whether it was in the cache.
    pub cached: bool,
    _lease: Lock,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The host cannot build.
    #[error("{}", sentence(missing))]
    Host {
        /// What it lacks.
        missing: Vec<Missing>,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The base.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A tree cannot be stored or brought back.
    #[error("cannot keep the root tree in the build cache")]
    Tree(#[from] TreeError),
    /// A step.
    #[error("step {step:?} failed")]
    Step {
        /// Its name.
        step: String,
        /// Why.
        #[source]
        source: StepError,
    },
    /// The tree cannot be sealed.
    #[error("cannot seal the root tree")]
    Seal(#[source] ToolError),
    /// A tool does not tell its version.
    #[error("cannot ask a tool for its version")]
    Version(#[source] ToolError),
    /// The disk.
    #[error("cannot make the disk")]
    Disk(#[from] DiskError),
    /// It did not pass.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// What the cache knows of a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageEntry {
    disk_bytes: u64,
}

/// Builds the image of a recipe, or finds it in the cache.
pub fn build(
    recipe: &Recipe,
    options: &Options,
    progress: Progress<'_>,
) -> Result<BuiltImage, BuildError> {
    let missing = preflight(recipe);
    if !missing.is_empty() {
        return Err(BuildError::Host { missing });
    }
    let cache = Cache::open(&options.cache)?;
    let work = cache.work()?;
    let identities = Identities::of(&recipe.name);
    let sources = Sources::of_host(&recipe.base);
    let configuration = recipe.configuration(&options.facts);
    let build = Build {
        recipe,
        cache: &cache,
        work: &work.path,
        prepared: Prepared::new(recipe, &identities),
        identities,
        given: Given::of(&configuration),
        configuration,
        apt: Apt {
            cache: &cache,
            work: &work.path,
            base: &recipe.base,
            sources: &sources,
            refresh: options.refresh,
        },
        age_max: if options.refresh { Some(Duration::ZERO) } else { Some(options.age_max) },
        progress,
    };
    let image = build.image()?;
    cache.prune(SystemTime::now());
    Ok(image)
}

/// One build.
struct Build<'a> {
    recipe: &'a Recipe,
    cache: &'a Cache,
    work: &'a Path,
    prepared: Prepared,
    identities: Identities,
    configuration: Configuration,
    given: Given,
    apt: Apt<'a>,
    age_max: Option<Duration>,
    progress: Progress<'a>,
}

/// The tree as far as it was built: what it is, and whether the work folder has it.
struct Tree<'a> {
    place: Place<'a>,
    layer: Layer,
    root: Option<PathBuf>,
}

impl<'a> Build<'a> {
    fn image(&self) -> Result<BuiltImage, BuildError> {
        let mut tree = self.base()?;
        for index in 0..self.recipe.steps.len() {
            self.step(index, &mut tree)?;
        }
        let tools = tool_versions().map_err(BuildError::Version)?;
        let key = self.image_key(&tree.layer, &tools);
        let (entry, lease, cached) = self.disk(&key, &mut tree)?;
        let path = self.cache.entry_path(Kind::Image, &key);
        for firmware in &self.recipe.check.boot {
            self.boot(&path, *firmware)?;
        }
        Ok(BuiltImage {
            path: path.join(DISK),
            disk_bytes: entry.disk_bytes,
            sector_bytes: 512,
            boot: self.boot_spec(),
            grow: ROOT_PARTITION,
            configuration: self.configuration(),
            provenance: self.provenance(&tree.layer, &tools),
            cached,
            _lease: lease,
        })
    }

    fn base(&self) -> Result<Tree<'a>, BuildError> {
        staged(self.progress, &Stage::Base, |log| {
            let key = base::key(self.apt.base, self.apt.sources)?;
            let place = Place { cache: self.cache, kind: Kind::Base, key };
            let (outcome, layer) = base::get(place, self.apt, self.age_max, log)?;
            Ok((outcome, Tree { place, layer, root: None }))
        })
    }

    /// Advances the tree by one step: its own result if that is cached.
    fn step(&self, index: usize, tree: &mut Tree<'a>) -> Result<(), BuildError> {
        let step = &self.recipe.steps[index];
        let first = index == 0;
        let mut key = Key::new("ingot step 1").field("parent", tree.layer.digest.0);
        if first {
            key = self.prepared.add_to_key(key);
        }
        key = key.field("sources", self.apt.sources.text()).field("epoch", EPOCH.to_string());
        let key = step::add_to_key(key.field("tidy", step::TIDY), step, &self.given).digest();
        let place = Place { cache: self.cache, kind: Kind::Tree, key };
        // Without packages, a step's result cannot get old.
        let age_max = self.age_max.filter(|max| !step.packages.is_empty() || max.is_zero());
        staged(self.progress, &Stage::Step(step.name.clone()), |log| {
            let _lock = self.cache.lock_entry(Kind::Tree, &key, log)?;
            if let Some(layer) = self.cache.find(Kind::Tree, &key, age_max) {
                *tree = Tree { place, layer, root: None };
                return Ok((Outcome::Cached, ()));
            }
            let root = self.root(tree, log)?;
            let failed = |source| BuildError::Step { step: step.name.clone(), source };
            if first {
                self.prepared.apply(self.work, &root, log).map_err(failed)?;
            }
            step::run(self.apt, &root, step, &self.given, log).map_err(failed)?;
            let layer = tree::pack(place, self.work, &root, EPOCH, log)?;
            *tree = Tree { place, layer, root: Some(root) };
            Ok((Outcome::Done, ()))
        })
    }

    /// The folder with the tree, brought back from the cache where needed.
    fn root(&self, tree: &mut Tree<'a>, log: Log<'_>) -> Result<PathBuf, BuildError> {
        if let Some(root) = tree.root.take() {
            return Ok(root);
        }
        let root = self.work.join("root");
        tree::restore(tree.place, &tree.layer, &root, log)?;
        Ok(root)
    }

    /// The finished disk: sealed, checked by the recipe's script, assembled.
    fn disk(
        &self,
        key: &Digest,
        tree: &mut Tree<'a>,
    ) -> Result<(ImageEntry, Lock, bool), BuildError> {
        if let Some(found) = self.cached_disk(key)? {
            let skip = |_: Log<'_>| Ok::<_, BuildError>((Outcome::Cached, ()));
            staged(self.progress, &Stage::Disk, skip)?;
            return Ok((found.0, found.1, true));
        }
        let locked = staged(self.progress, &Stage::Seal, |log| {
            let lock = self.cache.lock_entry(Kind::Image, key, log)?;
            if self.cache.find::<ImageEntry>(Kind::Image, key, None).is_some() {
                return Ok((Outcome::Cached, None));
            }
            let root = self.root(tree, log)?;
            system::seal(&root, log).map_err(BuildError::Seal)?;
            Ok::<_, BuildError>((Outcome::Done, Some((lock, root))))
        })?;
        let cached = locked.is_none();
        if let Some((_lock, root)) = locked {
            self.make_disk(key, &root)?;
        }
        match self.cached_disk(key)? {
            Some((entry, lease)) => Ok((entry, lease, cached)),
            None => {
                let path = self.cache.entry_path(Kind::Image, key);
                Err(at("read", &path)(std::io::ErrorKind::NotFound.into()).into())
            }
        }
    }

    /// The disk of a sealed tree. The caller holds the lock of the key.
    fn make_disk(&self, key: &Digest, root: &Path) -> Result<(), BuildError> {
        if let Some(script) = &self.recipe.check.script {
            staged(self.progress, &Stage::CheckScript, |log| {
                step::run_script(self.work, root, Access::Read, script, &self.given, log)?
                    .map_err(CheckError::Script)?;
                Ok::<_, BuildError>((Outcome::Done, ()))
            })?;
        }
        staged(self.progress, &Stage::Disk, |log| {
            let folder = self.work.join("image");
            fs::create_dir(&folder).map_err(at("create", &folder))?;
            let image = folder.join(DISK);
            let size = self.recipe.disk.size;
            let geometry = disk::make(self.work, root, &image, size, &self.identities, log)?;
            let entry = ImageEntry { disk_bytes: geometry.disk_bytes() };
            self.cache.store(Kind::Image, key, &folder, &entry)?;
            Ok((Outcome::Done, ()))
        })
    }

    fn cached_disk(&self, key: &Digest) -> Result<Option<(ImageEntry, Lock)>, BuildError> {
        let lease = self.cache.lease(Kind::Image, key)?;
        Ok(self.cache.find(Kind::Image, key, None).map(|entry| (entry, lease)))
    }

    /// Boots the disk once; that it passed is noted beside it.
    fn boot(&self, entry: &Path, firmware: Firmware) -> Result<(), BuildError> {
        let check = &self.recipe.check;
        let name = Key::new("ingot boot check 1")
            .field("firmware", firmware.name())
            .field("expect", &check.expect)
            .digest();
        let passed = entry.join(format!("passed-{}", name.short()));
        staged(self.progress, &Stage::Boot(firmware), |log| {
            if passed.exists() {
                return Ok((Outcome::Cached, ()));
            }
            check::boot(self.work, &entry.join(DISK), firmware, check, log)?;
            fs::write(&passed, "").map_err(at("write", &passed))?;
            Ok((Outcome::Done, ()))
        })
    }

    fn image_key(&self, layer: &Layer, tools: &BTreeMap<String, String>) -> Digest {
        let Recipe { name, disk, check, .. } = self.recipe;
        let size = match disk.size {
            RootSize::Fit => "fit".to_owned(),
            RootSize::Bytes(bytes) => bytes.to_string(),
        };
        let mut key = Key::new("ingot disk 1")
            .field("family", name)
            .field("tree", layer.digest.0)
            .field("size", size)
            .field("epoch", EPOCH.to_string());
        for (tool, version) in tools {
            key = key.field(tool, version);
        }
        if let Some(script) = &check.script {
            key = self.given.add_to_key(key.field("check", &script.bytes), script);
        }
        system::add_seal_to_key(key).digest()
    }

    fn boot_spec(&self) -> BootSpec {
        BootSpec {
            partition: ROOT_PARTITION,
            kernel: KERNEL.to_owned(),
            initrd: Some(crate::INITRD.to_owned()),
            cmdline: system::cmdline(self.recipe, &self.identities),
        }
    }

    fn configuration(&self) -> BTreeMap<String, String> {
        let mut notes = map([
            ("arch", "amd64".to_owned()),
            ("distro", self.recipe.base.distro.name().to_owned()),
        ]);
        notes.extend(self.configuration.notes());
        notes
    }

    /// Nothing that differs between two builds of the same bytes.
    fn provenance(
        &self,
        layer: &Layer,
        tools: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut notes = map([
            ("builder", format!("ingot {}", env!("CARGO_PKG_VERSION"))),
            ("epoch", EPOCH.to_string()),
            ("recipe.digest", self.recipe.digest.to_string()),
            ("tree.digest", layer.digest.to_string()),
        ]);
        notes.extend(tools.iter().map(|(tool, version)| (format!("tool.{tool}"), version.clone())));
        notes
    }
}

fn map<const N: usize>(entries: [(&str, String); N]) -> BTreeMap<String, String> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Tools whose version shows in the bytes of a disk.
fn tool_versions() -> Result<BTreeMap<String, String>, ToolError> {
    // Some print it on standard error, or among other things; fatlabel is of
    // the same package as mkfs.vfat, which does not print it.
    let ask = |script: &str| tool::output(tool::command("sh", EPOCH).args(["-c", script]));
    Ok(map([
        ("e2fsprogs", ask("mke2fs -V 2>&1 | head -n 1")?),
        ("grub", ask("grub-mkimage --version")?),
        ("dosfstools", ask("fatlabel --version")?),
        ("mtools", ask("mcopy --version | head -n 1")?),
    ]))
}
