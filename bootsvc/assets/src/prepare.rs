//! Making the folder of boot assets.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::archive::{Archive, ArchiveError, compress, compress_cached};
use crate::kernel::{self, KernelError};
use crate::manifest::{self, AssetsDir, INITRAMFS, Manifest, OpenError, STUB_FILE, Stamp, VMLINUZ};
use crate::modules::{ModuleSet, ModulesError, Tree};
use crate::package::{self, KernelFiles, PackageError};
use crate::{UkiError, append_sections, selection};

/// The EFI stub, as Debian's package systemd-boot-efi installs it.
pub(crate) const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// By measurement: 22 makes the ramdisk 1 % smaller, 15 makes it 12 % larger.
const ZSTD_LEVEL: i32 = 19;

/// Where the kernel comes from.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A Debian package such as `linux-image-amd64` (all hardware) or
    /// `linux-image-cloud-amd64` (virtual machines), from the sources that the host's apt knows.
    Package(String),
    /// A kernel image and the folder `/lib/modules/RELEASE` that belongs to it.
    Files {
        /// The bzImage.
        vmlinuz: PathBuf,
        /// The modules folder.
        modules: PathBuf,
    },
}

/// What to make boot assets from.
#[derive(Clone, Debug)]
pub struct AssetOptions {
    /// The folder to make.
    pub dir: PathBuf,
    /// Where unpacked kernels and compressed drivers are kept between runs; it may be deleted
    /// at any time.
    pub cache: PathBuf,
    /// The static program that becomes `/init`.
    pub agent: PathBuf,
    /// The kernel.
    pub kernel: Kernel,
    /// The EFI stub.
    pub stub: PathBuf,
}

impl AssetOptions {
    /// Debian's kernel for all hardware and the installed EFI stub.
    pub fn new(dir: &Path, cache: &Path, agent: &Path) -> AssetOptions {
        AssetOptions {
            dir: dir.to_owned(),
            cache: cache.to_owned(),
            agent: agent.to_owned(),
            kernel: Kernel::Package("linux-image-amd64".to_owned()),
            stub: PathBuf::from(STUB),
        }
    }
}

/// What is being done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A kernel package is downloaded.
    Download {
        /// Name and version.
        package: String,
    },
    /// A kernel package is unpacked.
    Unpack {
        /// Name and version.
        package: String,
    },
    /// The ramdisk is compressed.
    Compress {
        /// How many drivers are in it.
        modules: u32,
        /// Its size before.
        bytes: u64,
    },
    /// Nothing was to be done.
    Unchanged,
    /// The files are written.
    Written {
        /// Size of the kernel.
        vmlinuz_bytes: u64,
        /// Size of the ramdisk.
        initramfs_bytes: u64,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: &u64| format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10);
        match self {
            Progress::Download { package } => write!(f, "downloading {package}"),
            Progress::Unpack { package } => write!(f, "unpacking {package}"),
            Progress::Compress { modules, bytes } => {
                write!(f, "compressing the ramdisk: {modules} drivers, {}", mb(bytes))
            }
            Progress::Unchanged => write!(f, "boot assets are up to date"),
            Progress::Written { vmlinuz_bytes, initramfs_bytes } => {
                let total = vmlinuz_bytes + initramfs_bytes;
                let (kernel, ramdisk) = (mb(vmlinuz_bytes), mb(initramfs_bytes));
                write!(f, "boot assets: kernel {kernel} + ramdisk {ramdisk} = {}", mb(&total))
            }
        }
    }
}

/// Why boot assets cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The EFI stub is missing.
    #[error("there is no EFI stub at {0}; install the Debian package systemd-boot-efi")]
    NoStub(PathBuf),
    /// A file could not be read.
    #[error("cannot read the {what} {path}")]
    Read {
        /// What it is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel or the agent is not usable.
    #[error("the {what} {path} cannot be used")]
    Unusable {
        /// What it is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// The folder could not be written.
    #[error("cannot write boot assets to {path}")]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No kernel package.
    #[error("cannot get a kernel")]
    Package(#[from] PackageError),
    /// The modules are not usable.
    #[error("cannot select kernel modules")]
    Modules(#[from] ModulesError),
    /// The ramdisk could not be packed.
    #[error("cannot pack the ramdisk")]
    Archive(#[from] ArchiveError),
    /// Kernel and stub do not go together.
    #[error("cannot make an EFI program of the stub and the kernel")]
    Uki(#[from] UkiError),
    /// What was written cannot be read back.
    #[error("the boot assets cannot be read back")]
    Open(#[from] OpenError),
}

/// Makes a folder of boot assets, or leaves it as it is when it holds what would be made.
///
/// The same kernel, agent and stub give the same bytes. Two processes may prepare the same
/// folder at once; a reader never takes half of it for the whole.
pub fn prepare(
    options: &AssetOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<AssetsDir, PrepareError> {
    let files = match &options.kernel {
        Kernel::Package(name) => package::fetch(name, &options.cache, progress)?,
        Kernel::Files { vmlinuz, modules } => KernelFiles {
            origin: vmlinuz.display().to_string(),
            vmlinuz: vmlinuz.clone(),
            modules: modules.clone(),
        },
    };
    let inputs = Inputs::read(options, &files)?;
    let (drivers, base) = (inputs.drivers()?, inputs.base()?);
    let mut manifest = inputs.manifest(files.origin, Stamp::of_both(&drivers, &base));
    let dir = &options.dir;
    let write = |source| PrepareError::Write { path: dir.clone(), source };
    std::fs::create_dir_all(dir).map_err(write)?;
    let lock = File::create(dir.join(".lock")).map_err(write)?;
    lock.lock().map_err(write)?;
    if let Ok(present) = AssetsDir::open(dir)
        && present.manifest().same_inputs(&manifest)
    {
        progress(Progress::Unchanged);
        return Ok(present);
    }
    progress(Progress::Compress { modules: manifest.modules, bytes: manifest.ramdisk.bytes });
    let mut initramfs = compress_cached(&drivers, ZSTD_LEVEL, &options.cache)?;
    initramfs.extend(compress(&base, ZSTD_LEVEL)?);
    manifest.initramfs = Stamp::of(&initramfs);
    let (vmlinuz, stub) = (inputs.vmlinuz.as_slice(), inputs.stub.as_slice());
    let contents = [(VMLINUZ, vmlinuz), (STUB_FILE, stub), (INITRAMFS, initramfs.as_slice())];
    manifest::write(dir, &manifest, contents).map_err(write)?;
    progress(Progress::Written {
        vmlinuz_bytes: manifest.vmlinuz.bytes,
        initramfs_bytes: manifest.initramfs.bytes,
    });
    Ok(AssetsDir::open(dir)?)
}

/// Everything that goes into the assets, in memory and checked.
struct Inputs {
    agent: Vec<u8>,
    vmlinuz: Vec<u8>,
    stub: Vec<u8>,
    tree: Tree,
    set: ModuleSet,
}

impl Inputs {
    fn read(options: &AssetOptions, files: &KernelFiles) -> Result<Inputs, PrepareError> {
        if !options.stub.exists() {
            return Err(PrepareError::NoStub(options.stub.clone()));
        }
        let stub = read("EFI stub", &options.stub)?;
        append_sections(&stub, &[])?;
        let agent = read("agent", &options.agent)?;
        kernel::check_static(&agent).map_err(unusable("agent", &options.agent))?;
        let vmlinuz = read("kernel", &files.vmlinuz)?;
        let release = kernel::release(&vmlinuz).map_err(unusable("kernel", &files.vmlinuz))?;
        let tree = Tree::open(&files.modules)?;
        if release != tree.release {
            let error = KernelError::Release { kernel: release, modules: tree.release };
            return Err(unusable("kernel", &files.vmlinuz)(error));
        }
        let set = ModuleSet::select(&tree, selection::modules())?;
        Ok(Inputs { agent, vmlinuz, stub, tree, set })
    }

    /// The manifest but for the compressed ramdisk.
    fn manifest(&self, origin: String, ramdisk: Stamp) -> Manifest {
        Manifest {
            format: manifest::FORMAT.to_owned(),
            origin,
            release: self.tree.release.clone(),
            modules: u32::try_from(self.set.modules.len()).unwrap_or(u32::MAX),
            agent: Stamp::of(&self.agent),
            ramdisk,
            zstd_level: ZSTD_LEVEL,
            vmlinuz: Stamp::of(&self.vmlinuz),
            stub: Stamp::of(&self.stub),
            initramfs: Stamp::of(&[]),
        }
    }

    /// The part of the ramdisk that changes with the kernel.
    fn drivers(&self) -> Result<Vec<u8>, ArchiveError> {
        let (dep, alias) = (self.set.dep(), self.set.alias());
        let folder = format!("lib/modules/{}", self.tree.release);
        let mut archive = Archive::default();
        archive.file(&format!("{folder}/modules.dep"), 0o644, dep.as_bytes());
        archive.file(&format!("{folder}/modules.alias"), 0o644, alias.as_bytes());
        let builtin = self.tree.builtin_list.as_bytes();
        archive.file(&format!("{folder}/modules.builtin"), 0o644, builtin);
        for module in self.set.modules.values() {
            archive.file(&format!("{folder}/{}", module.path), 0o644, &module.bytes);
        }
        archive.to_bytes()
    }

    /// The part of the ramdisk that changes with the agent.
    fn base(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut archive = Archive::default();
        for folder in ["dev", "etc/ingot", "proc", "run", "sys", "tmp"] {
            archive.folder(folder);
        }
        // The kernel opens the console for init before anything is mounted.
        archive.device("dev/console", 0o600, 5, 1);
        archive.device("dev/null", 0o666, 1, 3);
        archive.file("init", 0o755, &self.agent);
        archive.to_bytes()
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, PrepareError> {
    let path_owned = path.to_owned();
    manifest::read_file(path).map_err(|source| PrepareError::Read {
        what,
        path: path_owned,
        source,
    })
}

fn unusable(what: &'static str, path: &Path) -> impl FnOnce(KernelError) -> PrepareError {
    let path = path.to_owned();
    move |source| PrepareError::Unusable { what, path, source }
}
