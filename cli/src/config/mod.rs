//! The configuration of `ingot serve`: a TOML file of which only what must be
//! said has to be there. `examples/ingot.toml` explains every key.

mod mistake;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::context::PORT;
use crate::exit::{Code, Failure};

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

/// `[boot]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The only interface that DHCP and TFTP are answered on.
    pub interface: String,
    /// Our address there; absent: the first IPv4 address of the interface.
    pub address: Option<Ipv4Addr>,
}

/// Reads the file. Relative paths in it start at its folder.
pub fn load(path: &Path) -> anyhow::Result<Config> {
    let text = read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(parse(&text, &path.display().to_string())?.based_on(folder))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let what = format!("cannot read the configuration {}", path.display());
    let size = std::fs::metadata(path).map(|meta| meta.len());
    let text = match size {
        Ok(size) if size > FILE_BYTES_MAX => {
            return Err(Failure::new(Code::Mistake, "it is larger than a MiB")
                .next("name a TOML file such as examples/ingot.toml"))
            .context(what);
        }
        Ok(_) => std::fs::read_to_string(path),
        Err(error) => Err(error),
    };
    text.map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound {
            Code::NotFound
        } else {
            Code::Failed
        };
        anyhow::Error::new(error)
            .context(Failure::new(code, what).next("start from the commented examples/ingot.toml"))
    })
}

/// Parses the text; `name` is what messages call it.
pub fn parse(text: &str, name: &str) -> anyhow::Result<Config> {
    toml::from_str(text).map_err(|error| mistake::explain(name, text, &error))
}

impl Config {
    fn based_on(mut self, folder: &Path) -> Config {
        if let Some(state) = &mut self.state.folder {
            *state = folder.join(&state);
        }
        if let Some(policy) = &mut self.policy {
            policy.file = folder.join(&policy.file);
        }
        if let Some(url) = self.store.url.as_mut().filter(|url| !url.contains("://")) {
            *url = folder.join(&url).to_string_lossy().into_owned();
        }
        self
    }
}
