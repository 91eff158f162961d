//! A selection of a kernel's modules, closed over what they depend on.
//!
//! Dependencies and aliases come from the modules themselves: a Debian kernel package holds
//! no `modules.dep`, that is made by `depmod` when it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::modinfo::{ModInfo, module_name};

/// The largest module in use today has 20 MB.
const MODULE_BYTES_MAX: u64 = 128 << 20;
/// Folders below each other in a modules folder; real ones have 8.
const DEPTH_MAX: u32 = 32;

/// Why a set of modules cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder is not one of `/lib/modules`.
    #[error("{0} is no modules folder: expected /lib/modules/RELEASE with a folder \"kernel\"")]
    NotModules(PathBuf),
    /// A file is no module.
    #[error("{0} is no kernel module (no ELF section .modinfo), or larger than 128 MiB")]
    NotModule(PathBuf),
    /// A module is missing.
    #[error(
        "module {name} is needed by {by}, but it is neither in the modules folder nor built in"
    )]
    Missing {
        /// The missing one.
        name: String,
        /// What depends on it.
        by: String,
    },
}

/// A modules folder: which modules there are.
pub(crate) struct Tree {
    folder: PathBuf,
    pub(crate) release: String,
    /// Path below the folder, by name.
    paths: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    /// The file `modules.builtin`, as it is.
    pub(crate) builtin_list: String,
}

impl Tree {
    pub(crate) fn open(folder: &Path) -> Result<Tree, ModulesError> {
        let not = || ModulesError::NotModules(folder.to_owned());
        let release = folder.file_name().and_then(|name| name.to_str()).ok_or_else(not)?;
        if !folder.join("kernel").is_dir() {
            return Err(not());
        }
        let mut paths = BTreeMap::new();
        walk(folder, Path::new("kernel"), DEPTH_MAX, &mut paths)?;
        let list = folder.join("modules.builtin");
        let builtin_list = fs::read_to_string(&list)
            .map_err(|source| ModulesError::Read { path: list, source })?;
        let builtin = builtin_list.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Tree {
            folder: folder.to_owned(),
            release: release.to_owned(),
            paths,
            builtin,
            builtin_list,
        })
    }

    fn read(&self, name: &str) -> Result<Option<Module>, ModulesError> {
        let Some(below) = self.paths.get(name) else { return Ok(None) };
        let path = self.folder.join(below);
        let bytes = read_module(&path)
            .map_err(|source| ModulesError::Read { path: path.clone(), source })?;
        let info = bytes.as_deref().and_then(ModInfo::of_module);
        let (Some(bytes), Some(info)) = (bytes, info) else {
            return Err(ModulesError::NotModule(path));
        };
        let plain = below.with_file_name(format!("{}.ko", stem(below).unwrap_or(name)));
        Ok(Some(Module { path: plain.to_string_lossy().into_owned(), bytes, info }))
    }
}

/// A module, decompressed.
pub(crate) struct Module {
    /// Below the modules folder, for example `kernel/drivers/net/virtio_net.ko`.
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    info: ModInfo,
}

/// Modules by name, with all that they depend on.
pub(crate) struct ModuleSet {
    pub(crate) modules: BTreeMap<String, Module>,
}

impl ModuleSet {
    /// The wanted modules that this kernel has, and what they need.
    pub(crate) fn select<'a>(
        tree: &Tree,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Result<ModuleSet, ModulesError> {
        let mut set = ModuleSet { modules: BTreeMap::new() };
        let mut todo: Vec<(String, Option<String>)> =
            wanted.into_iter().map(|name| (module_name(name), None)).collect();
        while let Some((name, by)) = todo.pop() {
            if set.modules.contains_key(&name) || tree.builtin.contains(&name) {
                continue;
            }
            match (tree.read(&name)?, by) {
                (Some(module), _) => {
                    let needs = module.info.depends.iter();
                    todo.extend(needs.map(|need| (need.clone(), Some(name.clone()))));
                    set.modules.insert(name, module);
                }
                (None, Some(by)) => return Err(ModulesError::Missing { name, by }),
                (None, None) => {}
            }
        }
        Ok(set)
    }

    /// The file `modules.dep`: for each module all that must be loaded before it, the last one
    /// first. What a module merely wants first is listed like what it needs.
    pub(crate) fn dep(&self) -> String {
        let providers = self.providers();
        let mut text = String::new();
        for (name, module) in &self.modules {
            let mut order = Vec::new();
            self.load_order(name, &providers, &mut BTreeSet::new(), &mut order);
            order.pop();
            text += &module.path;
            text.push(':');
            for need in order.iter().rev() {
                text.push(' ');
                text += &self.modules[*need].path;
            }
            text.push('\n');
        }
        text
    }

    /// The file `modules.alias`.
    pub(crate) fn alias(&self) -> String {
        let lines = self.modules.iter().flat_map(|(name, module)| {
            module.info.aliases.iter().map(move |pattern| format!("alias {pattern} {name}\n"))
        });
        lines.collect()
    }

    /// Which modules go by each plain name or alias.
    fn providers(&self) -> BTreeMap<String, Vec<&str>> {
        let mut providers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, module) in &self.modules {
            providers.entry(name.clone()).or_default().push(name);
            for alias in &module.info.aliases {
                providers.entry(module_name(alias)).or_default().push(name);
            }
        }
        providers
    }

    /// Appends what `name` needs and then `name` itself. `begun` also ends circles, which
    /// wishes can form.
    fn load_order<'a>(
        &'a self,
        name: &str,
        providers: &BTreeMap<String, Vec<&'a str>>,
        begun: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        let Some((name, module)) = self.modules.get_key_value(name) else { return };
        if !begun.insert(name) {
            return;
        }
        for need in &module.info.depends {
            self.load_order(need, providers, begun, order);
        }
        for want in module.info.wants.iter().filter_map(|want| providers.get(want)).flatten() {
            self.load_order(want, providers, begun, order);
        }
        order.push(name);
    }
}

fn walk(
    folder: &Path,
    below: &Path,
    depth: u32,
    paths: &mut BTreeMap<String, PathBuf>,
) -> Result<(), ModulesError> {
    let path = folder.join(below);
    let read = |source| ModulesError::Read { path: path.clone(), source };
    if depth == 0 {
        return Err(ModulesError::NotModules(path));
    }
    for entry in fs::read_dir(&path).map_err(read)? {
        let entry = entry.map_err(read)?;
        let below = below.join(entry.file_name());
        if entry.file_type().map_err(read)?.is_dir() {
            walk(folder, &below, depth - 1, paths)?;
        } else if let Some(name) = name_of(&below) {
            paths.insert(name, below);
        }
    }
    Ok(())
}

/// The file name without `.ko`, `.ko.xz` or `.ko.zst`.
fn stem(path: &Path) -> Option<&str> {
    let file = path.file_name()?.to_str()?;
    [".ko", ".ko.xz", ".ko.zst"].iter().find_map(|end| file.strip_suffix(end))
}

fn name_of(path: &Path) -> Option<String> {
    stem(path).map(module_name)
}

/// The module's bytes, decompressed; `None` if that is too much.
fn read_module(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    let reader: Box<dyn Read> = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => Box::new(lzma_rust2::XzReader::new(file, false)),
        Some("zst") => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    reader.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|count| count <= MODULE_BYTES_MAX);
    Ok(fits.then_some(bytes))
}

#[cfg(test)]
mod tests;
