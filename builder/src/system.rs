//! What every image gets: settings before the recipe's first step, so that a
//! step can change them, and the seal after its last.

use std::collections::BTreeMap;
use std::path::Path;

use crate::identity::Identities;
use crate::key::Key;
use crate::recipe::{File, Recipe};
use crate::sandbox::{Access, Sandbox};
use crate::step::{self, StepError};
use crate::tool::{Log, ToolError};

const PREPARE: &str = include_str!("assets/prepare.sh");
const SEAL: &str = include_str!("assets/seal.sh");
const GRUB_CFG: &str = include_str!("assets/grub.cfg");

/// Any wired card; `Kind=!*` leaves bridges and bonds to those who make them.
const NETWORK: &str = "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n";

/// What the first step starts with.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    files: BTreeMap<String, File>,
    root_password: String,
}

impl Prepared {
    /// For a recipe.
    pub fn new(recipe: &Recipe, identities: &Identities) -> Prepared {
        let hostname = &recipe.system.hostname;
        let mut texts = vec![
            ("etc/hostname", format!("{hostname}\n")),
            ("etc/hosts", hosts(hostname)),
            ("etc/fstab", fstab(identities)),
            ("boot/grub/grub.cfg", grub_cfg(recipe, identities)),
        ];
        if recipe.system.dhcp {
            texts.push(("etc/systemd/network/80-ethernet.network", NETWORK.to_owned()));
        }
        let file = |(path, text): (&str, String)| {
            (path.to_owned(), File { mode: 0o644, bytes: text.into_bytes() })
        };
        Prepared {
            files: texts.into_iter().map(file).collect(),
            root_password: recipe.system.root_password.clone().unwrap_or_default(),
        }
    }

    /// Adds everything that the result depends on.
    pub fn add_to_key(&self, mut key: Key) -> Key {
        for (path, file) in &self.files {
            key = key.field("file", path).field("", &file.bytes);
        }
        key.field("prepare", PREPARE).field("password", &self.root_password)
    }

    /// Puts it into the tree.
    pub fn apply(&self, work: &Path, root: &Path, log: Log<'_>) -> Result<(), StepError> {
        step::copy(work, root, self.files.iter(), log)?;
        Sandbox::new(root, Access::Write)
            .run("prepare.sh", &["sh", "-c", PREPARE, "prepare.sh", &self.root_password], log)
            .map_err(StepError::Prepare)
    }
}

/// Makes the tree that of an image.
pub(crate) fn seal(root: &Path, log: Log<'_>) -> Result<(), ToolError> {
    Sandbox::new(root, Access::Write).run("seal.sh", &["sh", "-c", SEAL], log)?;
    step::tidy(root, log)
}

/// Adds everything that the seal's result depends on.
pub(crate) fn add_seal_to_key(key: Key) -> Key {
    key.field("seal", SEAL)
}

/// The kernel command line of a recipe's images.
pub(crate) fn cmdline(recipe: &Recipe, identities: &Identities) -> String {
    let line = format!(
        "root=PARTUUID={} ro console=tty0 console=ttyS0,115200 {}",
        identities.root, recipe.disk.cmdline
    );
    line.trim_end().to_owned()
}

fn hosts(hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = if short == hostname { hostname.to_owned() } else { format!("{hostname} {short}") };
    format!("127.0.0.1\tlocalhost\n127.0.1.1\t{names}\n\n::1\tlocalhost ip6-localhost\n")
}

/// The root grows to its partition at every boot; the system boots without its ESP.
fn fstab(identities: &Identities) -> String {
    format!(
        "PARTUUID={} / ext4 defaults,x-systemd.growfs 0 1\n\
         PARTUUID={} /boot/efi vfat umask=0077,nofail 0 0\n",
        identities.root, identities.esp
    )
}

fn grub_cfg(recipe: &Recipe, identities: &Identities) -> String {
    GRUB_CFG
        .replace("@FILESYSTEM@", &identities.filesystem.to_string())
        .replace("@TITLE@", &recipe.name)
        .replace("@CMDLINE@", &cmdline(recipe, identities))
}
