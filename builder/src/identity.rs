//! The identities of a disk: derived from the name of the recipe, so that two
//! builds of one recipe, however different, name their partitions alike.
//!
//! Were they random, or derived from the content, every rebuild would rewrite
//! all filesystem metadata: ext4's checksums are seeded with the UUID.

use uuid::Uuid;

/// Separates these identities from any other use of the same names.
const CONTEXT: &str = "ingot 2026-11-21 disk identities";

/// What has an identity on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identities {
    /// The GPT.
    pub disk: Uuid,
    /// The partition with GRUB's core image for BIOS.
    pub bios: Uuid,
    /// The EFI system partition.
    pub esp: Uuid,
    /// The volume number of its FAT filesystem.
    pub esp_volume: u32,
    /// The root partition.
    pub root: Uuid,
    /// The root filesystem.
    pub filesystem: Uuid,
    /// Seed of its directory hashes.
    pub hash_seed: Uuid,
}

impl Identities {
    /// Of the disks of the recipe `family`.
    pub fn of(family: &str) -> Identities {
        let esp_volume = derive(family, "esp-volume");
        let [a, b, c, d, ..] = esp_volume.into_bytes();
        Identities {
            disk: derive(family, "disk"),
            bios: derive(family, "bios"),
            esp: derive(family, "esp"),
            esp_volume: u32::from_be_bytes([a, b, c, d]),
            root: derive(family, "root"),
            filesystem: derive(family, "filesystem"),
            hash_seed: derive(family, "hash-seed"),
        }
    }
}

/// A UUID of version 8, custom (RFC 9562 5.8).
fn derive(family: &str, role: &str) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&(family.len() as u64).to_le_bytes());
    hasher.update(family.as_bytes());
    hasher.update(role.as_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_never_change_and_never_repeat() {
        let demo = Identities::of("demo");
        assert_eq!(demo, Identities::of("demo"));
        let web = Identities::of("web");
        let ids = [&demo, &web].map(|i| [i.disk, i.bios, i.esp, i.root, i.filesystem, i.hash_seed]);
        let ids = ids.concat();
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(id.get_version_num(), 8);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            assert!(!ids[i + 1..].contains(id));
        }
        // Installed machines boot by these: a change breaks the update of a
        // machine in place.
        assert_eq!(demo.root.to_string(), "a7622ee7-e30a-8cda-afa8-83d77648c33a");
    }
}
