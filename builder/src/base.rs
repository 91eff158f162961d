//! The root tree that a recipe starts from, made by mmdebstrap.

use std::fs;
use std::path::Path;
use std::time::Duration;

use wire::Digest;

use crate::EPOCH;
use crate::apt::{self, Apt, Sources};
use crate::cache::{CacheError, at};
use crate::key::Key;
use crate::progress::Outcome;
use crate::recipe::Base;
use crate::tool::{self, Log, ToolError};
use crate::tree::{self, Layer, Place, TreeError};

/// Packages of every image: what boots, finds its disk and its network, and
/// can be reached.
pub const PACKAGES: [&str; 9] = [
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// Where apt keeps downloaded packages in a tree.
const ARCHIVES: &str = "var/cache/apt/archives";

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// mmdebstrap does not tell its version.
    #[error("cannot ask mmdebstrap for its version")]
    Version(#[source] ToolError),
    /// It cannot be made.
    #[error("cannot make the base tree of {distro}")]
    Make {
        /// The release.
        distro: &'static str,
        /// Why.
        #[source]
        source: TreeError,
    },
}

/// Name of the base tree of `base`.
pub(crate) fn key(base: &Base, sources: &Sources) -> Result<Digest, BaseError> {
    let mut version = tool::command("mmdebstrap", EPOCH);
    let version = tool::output(version.arg("--version")).map_err(BaseError::Version)?;
    Ok(Key::new("ingot base tree 1")
        .field("distro", base.distro.name())
        .field("sources", sources.text())
        .list("packages", packages(base).iter())
        .field("epoch", EPOCH.to_string())
        .field("mmdebstrap", version)
        .digest())
}

/// The base tree: from the cache, unless it is too old, or made.
pub(crate) fn get(
    place: Place<'_>,
    apt: Apt<'_>,
    age_max: Option<Duration>,
    log: Log<'_>,
) -> Result<(Outcome, Layer), BaseError> {
    let Apt { cache, work, base, sources, .. } = apt;
    let _lock = cache.lock_entry(place.kind, &place.key, log)?;
    if let Some(layer) = cache.find(place.kind, &place.key, age_max) {
        return Ok((Outcome::Cached, layer));
    }
    let list = work.join("sources.list");
    fs::write(&list, sources.text()).map_err(at("write", &list))?;
    let debs = apt::debs_folder(cache, base.distro)?;
    let mut command = mmdebstrap(base, work, &debs, &list);
    let layer = tree::store(place, work, &mut command, log)
        .map_err(|source| BaseError::Make { distro: base.distro.name(), source })?;
    Ok((Outcome::Done, layer))
}

fn packages(base: &Base) -> Vec<&str> {
    let mut names: Vec<&str> = PACKAGES.to_vec();
    names.extend(base.packages.iter().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    names
}

/// mmdebstrap mounts `/sys` and devices into the tree it makes. In a mount
/// namespace of its own, nothing of that is left when it is killed, and nobody
/// who removes the tree can reach the host through it.
///
/// The cache of packages is on the same filesystem as the work folder: hard
/// links bring packages in and out, each at once or not at all.
fn mmdebstrap(base: &Base, work: &Path, debs: &Path, list: &Path) -> std::process::Command {
    let mut command = tool::command("unshare", EPOCH);
    apt::with_proxies(&mut command);
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "mmdebstrap"])
        .env("TMPDIR", work)
        .env("DEBS", debs)
        .args(["--mode=root", "--variant=minbase", "--format=tar", "--architectures=amd64"])
        .args(["--skip=download/empty", "--skip=essential/unlink", "--skip=output/dev"])
        .arg(format!("--include={}", packages(base).join(",")))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--dpkgopt=force-unsafe-io");
    for proxy in apt::proxy_settings() {
        command.arg(format!("--aptopt={}", proxy.trim_end_matches(';')));
    }
    command
        .arg(format!(
            "--setup-hook=mkdir -p \"$1/{ARCHIVES}\"; {}",
            link("$DEBS", &format!("$1/{ARCHIVES}"))
        ))
        .arg(format!("--customize-hook={}", link(&format!("$1/{ARCHIVES}"), "$DEBS")))
        // mmdebstrap leaves its settings for later package work; ours are not the system's.
        .arg(
            "--customize-hook=rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\" \
             \"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap\"",
        )
        .arg(base.distro.codename())
        .arg("-")
        .arg(list);
    command
}

/// A hook that links every package of one folder into another. One that is
/// there already, or was just deleted by another build, is left.
fn link(from: &str, to: &str) -> String {
    format!(
        "find \"{from}\" -maxdepth 1 -name '*.deb' -exec sh -c \
         'to=$1; shift; for deb; do ln \"$deb\" \"$to\" 2>/dev/null || :; done' \
         sh \"{to}\" {{}} +"
    )
}
