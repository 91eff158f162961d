//! What there is to send.

use std::collections::BTreeMap;

use bytes::Bytes;

/// One file, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its type over HTTP.
    pub content_type: &'static str,
    /// Its entity tag: equal for equal bytes, with quotes.
    pub etag: String,
}

/// All files by name, over HTTP below `/boot/` and over TFTP. Nothing else is
/// served: there is no folder behind it to break out of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifacts(BTreeMap<String, Artifact>);

impl Artifacts {
    /// None.
    pub fn new() -> Artifacts {
        Artifacts::default()
    }

    /// Adds a file, or replaces the one of this name. The content type is what
    /// firmware wants to see for the name's ending.
    pub fn insert(&mut self, name: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let etag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]);
        let artifact = Artifact { content_type: content_type(name), bytes, etag };
        self.0.insert(name.to_owned(), artifact);
    }

    /// The file `name`.
    pub fn get(&self, name: &str) -> Option<&Artifact> {
        self.0.get(name)
    }
}

/// The types are those of the UEFI specification 2.10 §24.7.3: firmware goes
/// by them where it does not go by the name.
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("efi") => "application/efi",
        Some("ipxe") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_have_equal_tags_and_types_follow_the_name() {
        let mut artifacts = Artifacts::new();
        artifacts.insert("ingot.efi", "abc");
        artifacts.insert("vmlinuz", "abc");
        artifacts.insert("initramfs.img", "abd");
        let of = |name| artifacts.get(name).cloned().unwrap();
        assert_eq!(of("ingot.efi").etag, of("vmlinuz").etag);
        assert_ne!(of("ingot.efi").etag, of("initramfs.img").etag);
        assert_eq!(of("ingot.efi").content_type, "application/efi");
        assert_eq!(of("vmlinuz").content_type, "application/octet-stream");
        assert_eq!(artifacts.get("other"), None);
    }
}
