//! Images that go to other stores.

use std::str::FromStr;

use clap::Args;
use wire::Reference;

/// Send an image to a server's store
///
/// Asks the server which chunks of the image its store lacks, sends those, and names the image
/// there: as it is named here, or as NAME:TAG behind the URL. The server reads the image back
/// before it counts. Broken off, it goes on where it stopped when it is run again. The server must
/// have `uploads = true` in its configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot push lab/web:1.2 http://10.0.0.1:8460\n  \
    ingot push lab/web:1.2 http://10.0.0.1:8460/lab/web:stable")]
pub struct Push {
    /// Image to send
    #[arg(value_name = "REF")]
    pub reference: Reference,
    /// Server to send it to, and the name to give it there
    #[arg(value_name = "URL[/NAME:TAG]")]
    pub remote: Remote,
}

/// A server, and a name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// `http://ADDRESS[:PORT]`
    pub server: String,
    /// As it was said.
    pub reference: Option<Reference>,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Remote, String> {
        let rest = text.strip_prefix("http://").ok_or_else(|| {
            "expected http://ADDRESS[:PORT], and a name behind it if it is another there".to_owned()
        })?;
        let (address, name) = rest.split_once('/').unwrap_or((rest, ""));
        let reference: Option<Reference> = match name {
            "" => None,
            name => Some(name.parse().map_err(|error| format!("{error}"))?),
        };
        if reference.as_ref().is_some_and(|reference| reference.digest.is_some()) {
            return Err("a digest cannot be given to an image: use name and tag".to_owned());
        }
        Ok(Remote { server: format!("http://{address}"), reference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_a_server_and_perhaps_a_name() {
        let remote = |text: &str| text.parse::<Remote>();
        let server = "http://10.0.0.1:8460".to_owned();
        let named = |name: &str| Some(name.parse().unwrap());
        for (text, reference) in [
            ("http://10.0.0.1:8460", None),
            ("http://10.0.0.1:8460/", None),
            ("http://10.0.0.1:8460/lab/web:1", named("lab/web:1")),
            ("http://10.0.0.1:8460/web", named("web")),
        ] {
            let expected = Remote { server: server.clone(), reference };
            assert_eq!(remote(text), Ok(expected), "{text}");
        }
        let digest = format!("http://a/web@blake3:{}", "0".repeat(64));
        for text in ["10.0.0.1:8460", "https://10.0.0.1", "http://a/Web", "http://a//web", &digest]
        {
            assert!(remote(text).is_err(), "{text}");
        }
    }
}
