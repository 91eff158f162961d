//! What the agent was told at boot: its server, and hints of the kernel command line.
//!
//! `/etc/ingot/agent.json` comes inside the boot artifact and decides; the
//! kernel command line only fills in what the file leaves open, because
//! whoever answers DHCP or TFTP can change it.

use std::time::Duration;

use serde::Deserialize;

/// What the agent needs to know before it can ask anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Base URL of the controller and the store, without a trailing slash.
    pub server: String,
    /// Hardware address of the card that the firmware booted from, lower case
    /// with colons; a hint which card to prefer.
    pub boot_mac: Option<String>,
    /// How long a dead agent waits before it restarts the machine.
    pub panic: Duration,
}

/// Why there is no [`Config`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file inside the boot artifact does not parse.
    #[error("/etc/ingot/agent.json is not what it should be ({0}): rebuild the boot assets")]
    File(String),
    /// Neither the file nor the command line names a server.
    #[error(
        "no server is known: /etc/ingot/agent.json has no \"server\" and the kernel command \
         line no ingot.server=URL; serve the boot assets with `ingot serve`"
    )]
    NoServer,
    /// The server is not a URL that the agent can use.
    #[error("server {0:?} is not usable: expected http://ADDRESS[:PORT]")]
    Server(String),
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
}

const PANIC_DEFAULT: Duration = Duration::from_secs(60);

impl Config {
    /// Reads the text of `/etc/ingot/agent.json`, where there is one, and that
    /// of `/proc/cmdline`.
    pub fn read(file: Option<&str>, cmdline: &str) -> Result<Config, ConfigError> {
        let file: File = match file {
            Some(text) => {
                serde_json::from_str(text).map_err(|error| ConfigError::File(error.to_string()))?
            }
            None => File::default(),
        };
        let hint = || argument(cmdline, "ingot.server").map(str::to_owned);
        let server = file.server.or_else(hint).ok_or(ConfigError::NoServer)?;
        let panic = argument(cmdline, "panic").and_then(|secs| secs.parse().ok());
        Ok(Config {
            server: base_url(&server)?,
            boot_mac: argument(cmdline, "BOOTIF").and_then(boot_mac),
            panic: panic.filter(|&s| s > 0).map_or(PANIC_DEFAULT, Duration::from_secs),
        })
    }
}

fn base_url(server: &str) -> Result<String, ConfigError> {
    let trimmed = server.trim_end_matches('/');
    // The store's client takes no path either.
    let unfit = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@');
    let usable = trimmed
        .strip_prefix("http://")
        .is_some_and(|rest| !rest.is_empty() && !rest.contains(unfit));
    if usable { Ok(trimmed.to_owned()) } else { Err(ConfigError::Server(server.to_owned())) }
}

/// Value of the last `name=value` on a kernel command line.
fn argument<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
    cmdline.split_ascii_whitespace().filter_map(value).next_back()
}

/// `BOOTIF` as PXE loaders write it: hardware type 01, then six bytes, by dashes.
fn boot_mac(value: &str) -> Option<String> {
    let value = value.to_ascii_lowercase().replace('-', ":");
    let mac = if value.len() == 20 { value.strip_prefix("01:")? } else { value.as_str() };
    let hex = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    (mac.split(':').count() == 6 && mac.split(':').all(hex)).then(|| mac.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_decides_and_the_command_line_fills_in() {
        let cmdline =
            "console=ttyS0 ingot.server=http://9.9.9.9 BOOTIF=01-52-54-00-AA-bb-cc panic=5\n";
        let config = Config::read(Some(r#"{"server":"http://10.0.0.1:8080/"}"#), cmdline).unwrap();
        assert_eq!(config.server, "http://10.0.0.1:8080");
        assert_eq!(config.boot_mac.as_deref(), Some("52:54:00:aa:bb:cc"));
        assert_eq!(config.panic, Duration::from_secs(5));
        assert_eq!(Config::read(None, cmdline).unwrap().server, "http://9.9.9.9");
        assert_eq!(Config::read(Some("{}"), cmdline).unwrap().server, "http://9.9.9.9");
    }

    #[test]
    fn says_what_is_missing() {
        assert_eq!(Config::read(None, "quiet"), Err(ConfigError::NoServer));
        assert!(matches!(Config::read(Some("{"), ""), Err(ConfigError::File(_))));
        for server in ["", "ftp://x", "http://", "http://a b", "http://a/b", "http://a?b"] {
            let file = serde_json::json!({ "server": server }).to_string();
            assert_eq!(Config::read(Some(&file), ""), Err(ConfigError::Server(server.into())));
        }
    }

    #[test]
    fn a_strange_bootif_is_no_hint() {
        for value in ["", "01", "zz:54:00:aa:bb:cc", "01-52-54-00-aa-bb-cc-dd"] {
            assert_eq!(boot_mac(value), None, "{value}");
        }
        assert_eq!(boot_mac("52:54:00:aa:bb:cc").as_deref(), Some("52:54:00:aa:bb:cc"));
    }
}
