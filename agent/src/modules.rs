//! Which kernel modules the hardware asks for, and loading them.
//!
//! Every device says its `modalias`; `modules.alias` maps patterns of those to
//! modules and `modules.dep` says which files a module needs first (depmod(8)).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The modules of one kernel, as its `modules.alias` and `modules.dep` list them.
#[derive(Debug, Default)]
pub struct Modules {
    folder: PathBuf,
    /// Pattern, module name.
    aliases: Vec<(String, String)>,
    /// Module name to its file and the files it needs.
    files: HashMap<String, (String, Vec<String>)>,
    /// Files that need not be tried again.
    tried: HashSet<String>,
}

/// What happened to one module file.
#[derive(Debug)]
pub struct Loaded {
    /// Name of the module.
    pub name: String,
    /// Why it did not load, if it did not.
    pub error: Option<io::Error>,
}

/// `finit_module(2)`: the file is compressed and the kernel shall unpack it.
const COMPRESSED: i32 = 4;

impl Modules {
    /// Reads the lists below `folder`, which is `/lib/modules/<release>`.
    pub fn open(folder: &Path) -> io::Result<Modules> {
        let aliases = fs::read_to_string(folder.join("modules.alias"))?;
        let dependencies = fs::read_to_string(folder.join("modules.dep"))?;
        Ok(Modules::parse(folder, &aliases, &dependencies))
    }

    fn parse(folder: &Path, aliases: &str, dependencies: &str) -> Modules {
        let alias = |line: &str| {
            let mut words = line.strip_prefix("alias ")?.split_ascii_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        let file = |line: &str| {
            let (file, needs) = line.split_once(':')?;
            let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
            Some((module_name(file), (file.to_owned(), needs)))
        };
        Modules {
            folder: folder.to_owned(),
            aliases: aliases.lines().filter_map(alias).collect(),
            files: dependencies.lines().filter_map(file).collect(),
            tried: HashSet::new(),
        }
    }

    /// Files to load for one alias, in order, without those tried before.
    fn wanted(&mut self, alias: &str) -> Vec<String> {
        let direct = self.files.contains_key(alias).then(|| alias.to_owned());
        let matching = self.aliases.iter().filter(|(pattern, _)| matches(pattern, alias));
        let names: Vec<_> = matching.map(|(_, name)| module_name(name)).chain(direct).collect();
        let mut files = Vec::new();
        names.iter().for_each(|name| self.add(name, &mut files));
        files
    }

    /// Adds a module's file behind those that it needs, which do so in turn:
    /// the order within a line of `modules.dep` does not matter then.
    fn add(&mut self, name: &str, files: &mut Vec<String>) {
        let Some((file, needs)) = self.files.get(name).cloned() else { return };
        if self.tried.insert(file.clone()) {
            needs.iter().for_each(|need| self.add(&module_name(need), files));
            files.push(file);
        }
    }

    /// Loads what one alias, or module name, asks for and was not tried before.
    pub fn load(&mut self, alias: &str) -> Vec<Loaded> {
        let files = self.wanted(alias);
        files.iter().map(|file| load_file(&self.folder.join(file), module_name(file))).collect()
    }
}

fn load_file(path: &Path, name: String) -> Loaded {
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    let load = || -> io::Result<()> {
        let file = File::open(path)?;
        let flags = if compressed { COMPRESSED } else { 0 };
        match rustix::system::finit_module(&file, c"", flags) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    };
    Loaded { name, error: load().err() }
}

/// `kernel/drivers/net/virtio-net.ko.xz` is `virtio_net`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

/// Every modalias that the devices below `root` (`/sys/devices`) say, with
/// how many devices say it.
pub fn modaliases(root: &Path) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if entry.file_name() == "modalias" {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                *found.entry(text.trim_end().to_owned()).or_default() += 1;
            }
        }
    }
    found.remove("");
    found
}

/// fnmatch(3) without flags: `*`, `?` and `[…]` with ranges and `!`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the text after the last `*` does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(b'?') => Some(1),
            Some(&byte) if byte == text[t] => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after, at))) => {
                retry = Some((after, at + 1));
                (p, t) = (after, at + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Length of the bracket expression at the start of `pattern`, if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|&b| b == b']')?;
    let (mut i, mut inside) = (first, false);
    while i < end {
        if i + 2 < end && pattern[i + 1] == b'-' {
            inside |= (pattern[i]..=pattern[i + 2]).contains(&byte);
            i += 3;
        } else {
            inside |= pattern[i] == byte;
            i += 1;
        }
    }
    (inside != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_fnmatch() {
        for (pattern, text) in [
            ("pci:v00001AF4d00001000sv*sd*bc*sc*i*", "pci:v00001AF4d00001000sv0sd1bc02sc00i00"),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4"),
            ("*", ""),
            ("a*b*c", "aXbXbXc"),
            ("usb:v*d*dc*dsc*dp*ic08isc0[5-6]ip50in*", "usb:v1d1dc0dsc0dp0ic08isc06ip50in00"),
            ("x[!a-c]y", "xdy"),
            ("??", "ab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4"),
            ("", "a"),
            ("a*b", "aXc"),
            ("x[a-c]y", "xdy"),
            ("x[", "x["),
            ("?", ""),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn needs_come_before_the_module_and_nothing_twice() {
        let aliases = "# comment\nalias virtio:d00000001v* virtio_net\nalias x:* virtio_net\n";
        let dependencies = "k/virtio-net.ko.xz: k/failover.ko k/net_failover.ko\n\
                            k/net_failover.ko: k/failover.ko\nk/failover.ko:\nk/efivarfs.ko:\n";
        let mut modules = Modules::parse(Path::new("/m"), aliases, dependencies);
        let expected = ["k/failover.ko", "k/net_failover.ko", "k/virtio-net.ko.xz"];
        assert_eq!(modules.wanted("virtio:d00000001v00001AF4"), expected);
        assert!(modules.wanted("x:y").is_empty(), "tried before");
        assert_eq!(modules.wanted("efivarfs"), ["k/efivarfs.ko"], "by name");
        assert!(modules.wanted("unknown:thing").is_empty());
    }

    #[test]
    fn modaliases_are_found_below_devices_without_following_links() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("pci0000:00/0000:00:03.0");
        fs::create_dir_all(device.join("virtio0")).unwrap();
        fs::write(device.join("modalias"), "pci:v1\n").unwrap();
        fs::write(device.join("virtio0/modalias"), "virtio:d1\n").unwrap();
        fs::create_dir_all(root.path().join("empty")).unwrap();
        fs::write(root.path().join("empty/modalias"), "\n").unwrap();
        std::os::unix::fs::symlink(root.path(), device.join("subsystem")).unwrap();
        let found = modaliases(root.path());
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("pci:v1".into(), 1), ("virtio:d1".into(), 1)]
        );
    }
}
