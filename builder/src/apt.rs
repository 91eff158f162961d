//! Debian packages: from where, and their download with the host's apt, so
//! that nothing inside the sandbox needs a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::cache::{Cache, CacheError, at};
use crate::recipe::{Base, Distro};
use crate::tool::{self, Log, ToolError};

/// The keys that Debian's archive is signed with, from the host's package
/// debian-archive-keyring; at the same place in the tree.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The archive, where the host does not name another.
const ARCHIVE: &str = "http://deb.debian.org/debian";
/// The security archive, where the host does not name another.
const SECURITY: &str = "http://deb.debian.org/debian-security";
/// Package lists older than this are fetched again before they are used.
const LISTS_AGE_MAX: Duration = Duration::from_secs(6 * 3600);
/// Proxy settings that a host may have in its environment.
const PROXY_VARIABLES: [&str; 4] = ["http_proxy", "https_proxy", "no_proxy", "ftp_proxy"];

/// Why packages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The package lists cannot be fetched.
    #[error("cannot fetch the package lists; is the mirror in the host's apt sources reachable?")]
    Update(#[source] ToolError),
    /// The packages cannot be fetched.
    #[error("cannot fetch the packages {packages}")]
    Download {
        /// Their names.
        packages: String,
        /// Why.
        #[source]
        source: ToolError,
    },
}

/// The archives that packages come from, as apt's one-line sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources(String);

impl Sources {
    /// The host's mirror with the suites of the recipe's release.
    pub fn of_host(base: &Base) -> Sources {
        let mut texts = Vec::new();
        texts.extend(fs::read_to_string("/etc/apt/sources.list").ok());
        let mut parts: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        parts.sort();
        let known = ["list", "sources"];
        parts.retain(|path| path.extension().is_some_and(|e| known.iter().any(|k| e == *k)));
        texts.extend(parts.iter().filter_map(|path| fs::read_to_string(path).ok()));
        Sources::new(base, &texts)
    }

    /// With the mirrors found in `texts`, the host's source files in either format.
    fn new(base: &Base, texts: &[String]) -> Sources {
        let entries: Vec<(String, String)> = texts.iter().flat_map(|text| entries(text)).collect();
        let mirror = |security: bool, default: &str| {
            let found = entries.iter().find(|(_, suite)| {
                let (release, is_security) = match suite.split_once('-') {
                    Some((release, "security")) => (release, true),
                    Some(_) => ("", false),
                    None => (suite.as_str(), false),
                };
                let debian = Distro::ALL.iter().any(|distro| distro.codename() == release)
                    || ["stable", "testing", "unstable", "sid"].contains(&release);
                debian && is_security == security
            });
            found.map_or(default, |(uri, _)| uri).trim_end_matches('/').to_owned()
        };
        let (archive, security) = (mirror(false, ARCHIVE), mirror(true, SECURITY));
        let (codename, components) = (base.distro.codename(), base.components.join(" "));
        let line = |uri: &str, suffix: &str| {
            format!("deb [signed-by={KEYRING}] {uri} {codename}{suffix} {components}\n")
        };
        Sources(line(&archive, "") + &line(&archive, "-updates") + &line(&security, "-security"))
    }

    /// As apt reads it.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// `(uri, suite)` of every `deb` entry, one-line or deb822 (sources.list(5)).
/// Only plain web addresses: a CD or a list of mirrors cannot be handed on.
fn entries(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            found.push((uri.to_owned(), suite.to_owned()));
        }
    }
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(value)
            });
            value.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let enabled = field("Enabled").first().is_none_or(|value| value != "no");
        if enabled && field("Types").iter().any(|kind| kind == "deb") {
            for uri in field("URIs") {
                found.extend(field("Suites").into_iter().map(|suite| (uri.clone(), suite)));
            }
        }
    }
    found.retain(|(uri, _)| uri.starts_with("http://") || uri.starts_with("https://"));
    found
}

/// The host's proxy settings for apt, as `key "value";` lines; they reach the
/// network and are no part of the result.
pub(crate) fn proxy_settings() -> Vec<String> {
    let mut command = tool::command("apt-config", 0);
    command.args(["dump", "--format", "%F \"%v\";%n", "Acquire"]);
    let Ok(dump) = tool::output(&mut command) else { return Vec::new() };
    let is_proxy = |line: &&str| {
        let (key, value) = line.split_once(' ').unwrap_or_default();
        key.to_ascii_lowercase().contains("proxy") && value != "\"\";"
    };
    dump.lines().filter(is_proxy).map(str::to_owned).collect()
}

/// Lets a tool that reaches the network use the host's proxies.
pub(crate) fn with_proxies(command: &mut Command) {
    for name in PROXY_VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// What a download gives to the step that installs it.
#[derive(Debug)]
pub(crate) struct Downloaded {
    /// Folder with the packages.
    pub debs: PathBuf,
    /// Folder with the package lists.
    pub lists: PathBuf,
}

/// The folder with all downloaded packages of a release.
pub(crate) fn debs_folder(cache: &Cache, distro: Distro) -> Result<PathBuf, CacheError> {
    cache.folder(&format!("debs/{}", distro.name().replace('/', "-")))
}

/// Where the packages of one build come from and go to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Apt<'a> {
    /// Keeps packages and lists.
    pub cache: &'a Cache,
    /// The build's own folder.
    pub work: &'a Path,
    /// Release and components.
    pub base: &'a Base,
    /// Archives.
    pub sources: &'a Sources,
    /// Fetch the lists again, however fresh they are.
    pub refresh: bool,
}

/// Fetches `packages`, and what they need beyond the tree at `root`, into the cache.
pub(crate) fn download(
    apt: Apt<'_>,
    root: &Path,
    packages: &[String],
    log: Log<'_>,
) -> Result<Downloaded, AptError> {
    let Apt { cache, work, base, sources, refresh } = apt;
    let name = base.distro.name().replace('/', "-");
    let _lock = cache.lock(&format!("apt-{name}"), log)?;
    // Other components are other lists.
    let lists = cache.folder(&format!("lists/{name}-{}", base.components.join("-")))?;
    let downloaded = Downloaded { debs: debs_folder(cache, base.distro)?, lists };
    let config = write_config(work, root, sources, &downloaded)?;
    let apt = |args: &[&str]| {
        let mut command = tool::command("apt-get", 0);
        command.env("APT_CONFIG", &config).args(args);
        with_proxies(&mut command);
        command
    };
    let stamp = downloaded.lists.join("ingot-updated");
    if refresh || older_than(&stamp, LISTS_AGE_MAX) {
        tool::run(&mut apt(&["update"]), log).map_err(AptError::Update)?;
        // Packages that the archive no longer has will not be asked for again.
        tool::run(&mut apt(&["autoclean"]), log).map_err(AptError::Update)?;
        fs::write(&stamp, "").map_err(at("write", &stamp))?;
    }
    let mut install = apt(&["--yes", "--download-only", "install"]);
    tool::run(install.args(packages), log)
        .map_err(|source| AptError::Download { packages: packages.join(" "), source })?;
    Ok(downloaded)
}

fn write_config(
    work: &Path,
    root: &Path,
    sources: &Sources,
    downloaded: &Downloaded,
) -> Result<PathBuf, CacheError> {
    let state = work.join("apt");
    let none = state.join("none");
    for folder in [&none, &downloaded.lists.join("partial"), &downloaded.debs.join("partial")] {
        fs::create_dir_all(folder).map_err(at("create", folder))?;
    }
    let list = state.join("sources.list");
    fs::write(&list, sources.text()).map_err(at("write", &list))?;
    let mut config = format!(
        "Dir \"{state}\";\n\
         Dir::State \"{state}\";\n\
         Dir::State::status \"{root}/var/lib/dpkg/status\";\n\
         Dir::State::lists \"{lists}\";\n\
         Dir::Cache \"{state}\";\n\
         Dir::Cache::archives \"{debs}\";\n\
         Dir::Etc \"{state}\";\n\
         Dir::Etc::main \"none\";\n\
         Dir::Etc::parts \"none\";\n\
         Dir::Etc::sourcelist \"sources.list\";\n\
         Dir::Etc::sourceparts \"none\";\n\
         Dir::Etc::preferencesparts \"none\";\n\
         Dir::Bin::methods \"/usr/lib/apt/methods\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Install-Recommends \"false\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n",
        state = state.display(),
        root = root.display(),
        lists = downloaded.lists.display(),
        debs = downloaded.debs.display(),
    );
    for line in proxy_settings() {
        config.push_str(&line);
        config.push('\n');
    }
    let path = state.join("apt.conf");
    fs::write(&path, config).map_err(at("write", &path))?;
    Ok(path)
}

fn older_than(path: &Path, age_max: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified
        .map_or(true, |time| SystemTime::now().duration_since(time).unwrap_or_default() > age_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> String {
        let base = Base {
            distro: Distro::Bookworm,
            components: vec!["main".to_owned(), "contrib".to_owned()],
            packages: Vec::new(),
        };
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Sources::new(&base, &texts).0
    }

    #[test]
    fn the_mirror_of_the_host_is_used() {
        let default = sources(&[]);
        assert_eq!(
            default.lines().next(),
            Some(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                 http://deb.debian.org/debian bookworm main contrib"
            )
        );
        let cases = [
            ("deb http://near.example/debian/ bookworm main\n", "http://near.example/debian "),
            ("deb [arch=amd64 a=b] https://near.example/x stable main", "https://near.example/x "),
            (
                "# note\nTypes: deb deb-src\nURIs: http://near.example/d\nSuites: trixie trixie-updates\n",
                "http://near.example/d ",
            ),
        ];
        for (text, uri) in cases {
            let text = sources(&["deb http://other.example/tool some main", text]);
            assert!(text.lines().take(2).all(|line| line.contains(uri)), "{text}");
            assert!(text.lines().nth(2).is_some_and(|line| line.contains(SECURITY)), "{text}");
        }
    }

    #[test]
    fn what_is_no_debian_archive_is_left() {
        let cases = [
            "deb-src http://near.example/debian bookworm main",
            "# deb http://near.example/debian bookworm main",
            "deb http://near.example/debian bookworm-backports main",
            "deb http://near.example/debian nodistro main",
            "deb cdrom:[x]/ bookworm main",
            "deb",
            "deb [",
            "Types: deb\nURIs: http://near.example/d\nSuites: bookworm\nEnabled: no\n",
            "Types: deb-src\nURIs: http://near.example/d\nSuites: bookworm\n",
        ];
        for text in cases {
            assert_eq!(sources(&[text]), sources(&[]), "{text}");
        }
        let security = sources(&["deb http://near.example/s bookworm-security main"]);
        assert!(security.contains("http://near.example/s bookworm-security"));
        assert!(security.contains(ARCHIVE));
    }
}
