//! What people call an image: `name[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// `name[:tag][@digest]`; a reference without tag and digest means the tag `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Reference {
    /// Path-like name: lower-case letters, digits, `.`, `_`, `-` in segments parted by `/`.
    pub name: String,
    /// Moves from image to image.
    pub tag: Option<String>,
    /// Pins one image for ever.
    pub digest: Option<Digest>,
}

/// Why a text is not a [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The name part is empty or has other characters than a name may have.
    #[error(
        "{0:?} is not an image name: use lower-case letters, digits, '.', '_', '-' and '/' \
         (at most 255), starting each part with a letter or digit"
    )]
    Name(String),
    /// The tag part is empty or has other characters than a tag may have.
    #[error("{0:?} is not a tag: use letters, digits, '.', '_' and '-' (at most 128)")]
    Tag(String),
    /// The digest part does not parse.
    #[error(transparent)]
    Digest(#[from] crate::DigestError),
}

impl Reference {
    /// The tag that is meant: the one given, else `latest`.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }
}

fn is_name(text: &str) -> bool {
    let segment = |s: &str| {
        s.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && s.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            })
    };
    text.len() <= 255 && text.split('/').all(segment)
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if !is_name(name) {
            return Err(ReferenceError::Name(name.to_owned()));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        Ok(Reference { name: name.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Reference, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest([7; 32]);
        for text in ["web", "web:stable", "lab/web:1.2_3-x", &format!("web@{digest}")] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn refuses_bad_names_tags_and_digests() {
        for text in ["", ":x", "Web", "a//b", "../a", "a:", "a:-x", "a:b:c", "a@sha256:00", "a b"] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
