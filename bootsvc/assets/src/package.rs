//! A kernel from the host's own package sources, kept in a cache by version.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::modules::{ModuleSet, ModulesError, Tree};
use crate::{Progress, selection};

/// Why a kernel package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A program is missing.
    #[error("cannot run {program}; install the Debian package {package}")]
    Program {
        /// Which program.
        program: &'static str,
        /// What to install.
        package: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{command} failed: {message}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said.
        message: String,
    },
    /// apt does not know the package.
    #[error(
        "apt knows no package {0}; run `apt-get update`, or name a kernel and its modules folder"
    )]
    Unknown(String),
    /// The package is not a kernel.
    #[error("package {0} holds no kernel with modules")]
    NoKernel(String),
    /// The cache cannot be used.
    #[error("cannot use the cache {path}")]
    Cache {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The package's modules are not usable.
    #[error("the modules of package {package} are not usable")]
    Modules {
        /// The package.
        package: String,
        /// Why.
        source: ModulesError,
    },
}

/// A kernel and its modules as files.
pub(crate) struct KernelFiles {
    pub(crate) origin: String,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) modules: PathBuf,
}

/// The newest kernel that the host's sources offer under this package name; downloaded and
/// unpacked unless the cache has it.
pub(crate) fn fetch(
    name: &str,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<KernelFiles, PackageError> {
    let package = Package::find(name)?;
    let io = |source| PackageError::Cache { path: cache.to_owned(), source };
    fs::create_dir_all(cache).map_err(io)?;
    let lock = File::create(cache.join(".lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let place = cache.join(package.folder_name());
    if !place.is_dir() {
        progress(Progress::Download { package: package.to_string() });
        let work = tempfile::tempdir_in(cache).map_err(io)?;
        let tree = package.unpack(work.path(), progress)?;
        let kept = work.path().join("kept");
        package.keep(&tree, &kept)?.map_err(io)?;
        fs::rename(&kept, &place).map_err(io)?;
    }
    let release = fs::read_to_string(place.join("release")).map_err(io)?;
    Ok(KernelFiles {
        origin: package.to_string(),
        vmlinuz: place.join("vmlinuz"),
        modules: place.join("modules").join(release),
    })
}

/// A kernel package that apt can download.
struct Package {
    name: String,
    version: String,
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl Package {
    /// Follows a name such as `linux-image-amd64` to the package with the kernel in it.
    fn find(name: &str) -> Result<Package, PackageError> {
        let record = show(name)?;
        if let Some(kernel) = depends_on_kernel(&record) {
            return Package::of_record(kernel, &show(kernel)?);
        }
        Package::of_record(name, &record)
    }

    fn of_record(name: &str, record: &str) -> Result<Package, PackageError> {
        let version = field(record, "Version").ok_or_else(|| PackageError::Unknown(name.into()))?;
        Ok(Package { name: name.to_owned(), version: version.to_owned() })
    }

    /// Changes when the package or the selection of drivers does.
    fn folder_name(&self) -> String {
        let selection = selection::modules().collect::<Vec<_>>().join(",");
        let short = &blake3::hash(selection.as_bytes()).to_hex()[..8];
        format!("{}_{}_{short}", self.name, self.version.replace([':', '/'], "."))
    }

    fn unpack(
        &self,
        work: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, PackageError> {
        let wanted = format!("{}={}", self.name, self.version);
        let download = ["-q", "download", &wanted];
        run(Command::new("apt-get").args(download).current_dir(work), "apt-get", "apt")?;
        progress(Progress::Unpack { package: self.to_string() });
        let files = files_in(work);
        let deb = files.iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
        let deb = deb.ok_or_else(|| PackageError::NoKernel(self.name.clone()))?;
        let tree = work.join("tree");
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree), "dpkg-deb", "dpkg")?;
        Ok(tree)
    }

    /// Copies what is used of an unpacked package; the rest, some 350 MB, is not kept.
    fn keep(&self, tree: &Path, kept: &Path) -> Result<std::io::Result<()>, PackageError> {
        let no_kernel = || PackageError::NoKernel(self.name.clone());
        let boot = files_in(&tree.join("boot"));
        let is_kernel = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        };
        let vmlinuz = boot.iter().find(is_kernel).ok_or_else(no_kernel)?;
        // Debian 13 has merged /lib into /usr.
        let folders = ["lib/modules", "usr/lib/modules"].map(|at| files_in(&tree.join(at)));
        let modules = folders.iter().flatten().next().ok_or_else(no_kernel)?;
        let of_package = |source| PackageError::Modules { package: self.to_string(), source };
        let modules = Tree::open(modules).map_err(of_package)?;
        let set = ModuleSet::select(&modules, selection::modules()).map_err(of_package)?;
        Ok(copy(vmlinuz, &modules, &set, kept))
    }
}

fn copy(vmlinuz: &Path, tree: &Tree, set: &ModuleSet, kept: &Path) -> std::io::Result<()> {
    let folder = kept.join("modules").join(&tree.release);
    fs::create_dir_all(folder.join("kernel"))?;
    fs::copy(vmlinuz, kept.join("vmlinuz"))?;
    fs::write(folder.join("modules.builtin"), &tree.builtin_list)?;
    for module in set.modules.values() {
        let path = folder.join(&module.path);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        fs::write(path, &module.bytes)?;
    }
    fs::write(kept.join("release"), &tree.release)
}

fn show(package: &str) -> Result<String, PackageError> {
    let arguments = ["show", "--no-all-versions", package];
    match run(Command::new("apt-cache").args(arguments), "apt-cache", "apt") {
        Ok(record) if !record.trim().is_empty() => Ok(record),
        Ok(_) | Err(PackageError::Failed { .. }) => Err(PackageError::Unknown(package.to_owned())),
        Err(error) => Err(error),
    }
}

/// A field of a package record, if it stands on one line.
fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// The kernel package that a package without a kernel stands for.
fn depends_on_kernel(record: &str) -> Option<&str> {
    let names =
        field(record, "Depends")?.split(',').filter_map(|one| one.split_whitespace().next());
    names.into_iter().find(|name| name.starts_with("linux-image-"))
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

fn run(
    command: &mut Command,
    program: &'static str,
    package: &'static str,
) -> Result<String, PackageError> {
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|source| PackageError::Program { program, package, source })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(PackageError::Failed { command: format!("{command:?}"), message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_name_to_the_kernel() {
        let meta = "Package: linux-image-amd64\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2), x\n";
        assert_eq!(depends_on_kernel(meta), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(field(meta, "Version"), Some("6.1.192-2"));
        let kernel = "Package: k\nDepends: kmod, linux-base (>= 4.3~)\nVersion: 1:2\n";
        assert_eq!(depends_on_kernel(kernel), None);
        let package = Package::of_record("k", kernel).unwrap();
        assert!(package.folder_name().starts_with("k_1.2_"));
    }

    #[test]
    fn unknown_packages_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = fetch("no-such-kernel-package", dir.path(), &mut |_| {}).err().unwrap();
        assert!(matches!(error, PackageError::Unknown(_)), "{error:?}");
    }
}
