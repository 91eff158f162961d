//! The `.modinfo` section of a kernel module: `key=value` texts, each ended by NUL.

use object::{Object, ObjectSection};

/// What a module says about itself, as far as loading it goes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ModInfo {
    /// Modules whose symbols it uses.
    pub(crate) depends: Vec<String>,
    /// Modules, or aliases of modules, that it wants loaded first but can do without.
    pub(crate) wants: Vec<String>,
    /// Patterns of what it drives.
    pub(crate) aliases: Vec<String>,
}

impl ModInfo {
    /// Reads an ELF module; `None` if it is none.
    pub(crate) fn of_module(elf: &[u8]) -> Option<ModInfo> {
        let file = object::File::parse(elf).ok()?;
        let section = file.section_by_name(".modinfo")?;
        Some(ModInfo::parse(section.data().ok()?))
    }

    fn parse(section: &[u8]) -> ModInfo {
        let mut info = ModInfo::default();
        for text in section.split(|&byte| byte == 0) {
            let text = String::from_utf8_lossy(text);
            match text.split_once('=') {
                Some(("depends", names)) => {
                    info.depends
                        .extend(names.split(',').filter(|n| !n.is_empty()).map(module_name));
                }
                Some(("softdep", rule)) => info.wants.extend(before(rule)),
                Some(("alias", pattern)) => info.aliases.push(pattern.to_owned()),
                _ => {}
            }
        }
        info
    }
}

/// The kernel treats `-` and `_` in module names as the same.
pub(crate) fn module_name(text: &str) -> String {
    text.replace('-', "_")
}

/// The names after `pre:` in a rule such as `pre: a b post: c`.
fn before(rule: &str) -> Vec<String> {
    let words = rule.split_whitespace();
    let mut names = Vec::new();
    let mut wanted = false;
    for word in words {
        match word {
            "pre:" => wanted = true,
            "post:" => wanted = false,
            name if wanted => names.push(module_name(name)),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_matters() {
        let section = b"license=GPL\0alias=pci:v00001AF4d*\0\0depends=net-failover,virtio\0\
            softdep=pre: crc32c-x a post: b\0alias=x=y\0depends=\0broken";
        let info = ModInfo::parse(section);
        assert_eq!(info.depends, ["net_failover", "virtio"]);
        assert_eq!(info.wants, ["crc32c_x", "a"]);
        assert_eq!(info.aliases, ["pci:v00001AF4d*", "x=y"]);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            ModInfo::parse(&bytes);
            ModInfo::of_module(&bytes);
            let elf = [b"\x7fELF\x02\x01\x01", bytes.as_slice()].concat();
            ModInfo::of_module(&elf);
        }
    }
}
