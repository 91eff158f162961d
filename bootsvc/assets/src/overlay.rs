//! What one server adds to the ramdisk.

use crate::archive::{Archive, ArchiveError};

/// The path of the agent's configuration in the ramdisk.
pub(crate) const AGENT_CONFIG: &str = "etc/ingot/agent.json";

/// A small uncompressed archive that is appended to the prepared ramdisk; its files replace
/// those of the same name.
pub struct Overlay<'a> {
    agent_config: &'a [u8],
}

impl<'a> Overlay<'a> {
    /// Puts `agent_config` (JSON) at `/etc/ingot/agent.json`, readable by root.
    pub fn new(agent_config: &'a [u8]) -> Overlay<'a> {
        Overlay { agent_config }
    }

    /// The archive; its length is a multiple of 512.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut archive = Archive::default();
        archive.file(AGENT_CONFIG, 0o600, self.agent_config);
        archive.to_bytes()
    }
}
