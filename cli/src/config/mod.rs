//! The configuration of `ingot serve`: a TOML file of which only what must be
//! said has to be there. `examples/ingot.toml` explains every key.

mod boot;
mod mistake;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::context::PORT;
use crate::exit::{Code, Failure};
use crate::render::human::size;
pub use boot::{Boot, Pool, Relayed, Static};
pub use mistake::excerpt;

/// Longest configuration read, in bytes: far above any real one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where HTTP is answered.
    pub http: Http,
    /// Where images are.
    pub store: Store,
    /// Where records are.
    pub state: State,
    /// Booting machines over the network; absent: HTTP only.
    pub boot: Option<Boot>,
    /// Who gets what.
    pub policy: Option<Policy>,
    /// Images that are built when a machine needs them.
    pub build: Build,
    /// What the server tells.
    pub log: Log,
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
    /// URL at which machines reach it, where it is not `http://` and `listen`.
    pub advertise: Option<String>,
}

impl Default for Http {
    fn default() -> Http {
        Http { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)), advertise: None }
    }
}

/// `[store]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Folder or URL.
    pub url: Option<String>,
    /// Whether images may be stored over HTTP.
    pub uploads: bool,
}

/// `[state]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Folder of the records: machines, runs, leases.
    pub folder: Option<PathBuf>,
}

/// `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The policy's file.
    pub file: PathBuf,
}

/// `[build]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Build {
    /// Most builds at a time.
    pub at_once: NonZeroUsize,
}

impl Default for Build {
    fn default() -> Build {
        Build { at_once: NonZeroUsize::MIN }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// How much is told.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what may go wrong.
    Warn,
    /// And everything that happens to machines.
    #[default]
    Info,
    /// And every request and packet.
    Debug,
    /// And more.
    Trace,
}

/// Reads the file. Relative paths in it start at its folder.
pub fn load(path: &Path) -> anyhow::Result<Config> {
    let text = read(path, "configuration", FILE_BYTES_MAX)?;
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = whole.parent().unwrap_or(Path::new("/"));
    Ok(parse(&text, &path.display().to_string())?.based_on(folder))
}

/// Reads a text file that people write; `what` is its name in messages.
pub fn read(path: &Path, what: &str, bytes_max: u64) -> anyhow::Result<String> {
    let context = format!("cannot read the {what} {}", path.display());
    let read = || {
        let mut text = String::new();
        let mut file = File::open(path)?.take(bytes_max + 1);
        file.read_to_string(&mut text).map(|_| text)
    };
    let failure = |code| {
        Failure::new(code, context.as_str()).next(format!("start from the commented {EXAMPLES}"))
    };
    match read() {
        Ok(text) if text.len() as u64 > bytes_max => {
            let cause = anyhow::anyhow!("it has more than {}", size(bytes_max));
            Err(cause.context(failure(Code::Mistake)))
        }
        Ok(text) => Ok(text),
        Err(error) => {
            let code = match error.kind() {
                ErrorKind::NotFound => Code::NotFound,
                ErrorKind::InvalidData => Code::Mistake,
                _ => Code::Failed,
            };
            Err(anyhow::Error::new(error).context(failure(code)))
        }
    }
}

/// Where people find every key explained.
const EXAMPLES: &str = "examples/ingot.toml and examples/policy.toml";

/// Parses the text; `name` is what messages call it.
pub fn parse(text: &str, name: &str) -> anyhow::Result<Config> {
    toml::from_str(text).map_err(|error| mistake::explain(name, text, &error))
}

impl Config {
    fn based_on(mut self, folder: &Path) -> Config {
        let boot = self.boot.iter_mut().flat_map(|boot| [&mut boot.assets, &mut boot.nbp]);
        let paths = boot.flatten().chain(&mut self.state.folder);
        let policy = self.policy.iter_mut().map(|policy| &mut policy.file);
        for path in paths.chain(policy) {
            *path = folder.join(&path);
        }
        if let Some(url) = self.store.url.as_mut().filter(|url| !url.contains("://")) {
            *url = folder.join(&url).to_string_lossy().into_owned();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../examples/ingot.toml");

    /// The example with every key that is commented out put in force: keys
    /// follow their "#" at once, prose does not.
    fn everything() -> String {
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        EXAMPLE.lines().map(|line| uncomment(line) + "\n").collect()
    }

    #[test]
    fn an_empty_file_is_enough_for_http() {
        let config = parse("", "x").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.http.listen.port(), PORT);
    }

    #[test]
    fn the_example_is_right_and_names_true_defaults() {
        let example = parse(EXAMPLE, "example").unwrap();
        let full = parse(&everything(), "example").unwrap();
        assert_eq!((example.http.listen, example.log), (full.http.listen, full.log));
        assert_eq!(example.build, full.build);
        let (example, full) = (example.boot.unwrap(), full.boot.unwrap());
        let defaults = |boot: &Boot| (boot.lease_secs, boot.tftp, boot.ra);
        assert_eq!(defaults(&example), defaults(&full));
        assert_eq!((full.machines.len(), full.relayed.len()), (1, 1));
        assert_eq!((example.machines.len(), example.relayed.len()), (0, 0));
    }

    #[test]
    fn relative_paths_start_at_the_folder_of_the_file() {
        let text = "[store]\nurl = \"s\"\n[state]\nfolder = \"t\"\n[policy]\nfile = \"/p\"\n\
                    [boot]\ninterface = \"e\"\nassets = \"a\"\n";
        let config = parse(text, "x").unwrap().based_on(Path::new("/etc/ingot"));
        assert_eq!(config.store.url.as_deref(), Some("/etc/ingot/s"));
        assert_eq!(config.state.folder.as_deref(), Some(Path::new("/etc/ingot/t")));
        assert_eq!(config.policy.unwrap().file, Path::new("/p"));
        assert_eq!(config.boot.unwrap().assets.as_deref(), Some(Path::new("/etc/ingot/a")));
        let url = parse("[store]\nurl = \"file:///x\"\n", "x").unwrap().based_on(Path::new("/y"));
        assert_eq!(url.store.url.as_deref(), Some("file:///x"));
    }
}
