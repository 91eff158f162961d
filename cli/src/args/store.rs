//! Looking after the store.

use clap::Args;
use wire::Reference;

/// List the images in the store
///
/// One line per reference: its image, when it was made, the size of the disk, and how much of it
/// is stored.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot ls\n  \
    ingot ls --json | jq -r '.[].reference'\n  \
    ingot --store /srv/images ls")]
pub struct Ls {}

/// Show what an image is made of
///
/// Prints the digest, the partitions with their digests, how the image is started, what it was
/// built from, and what it costs to keep.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot show debian:12\n  \
    ingot show lab/web:stable --json")]
pub struct Show {
    /// Image to show
    #[arg(value_name = "REF")]
    pub reference: Reference,
}

/// Give an image another name
///
/// The new name points to the image that REF points to now. A name that exists already is moved.
/// No bytes are copied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot tag lab/web:1.2 lab/web:stable")]
pub struct Tag {
    /// Image that exists
    #[arg(value_name = "REF")]
    pub reference: Reference,
    /// Name to give it, as name[:tag]
    #[arg(value_name = "NEW")]
    pub new: Reference,
}

/// Remove a name from the store
///
/// The image stays as long as another name points to it, and its bytes until `ingot gc`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot rm lab/web:1.1")]
pub struct Rm {
    /// Name to remove
    #[arg(value_name = "REF")]
    pub reference: Reference,
}

/// Remove what no name needs
///
/// Removes images without a name, and packs and blobs that no image needs; packs that are needed to
/// less than half are written anew without the rest. Runs beside imports, builds and a server: what
/// one of them may still need is kept, and the next gc removes it. Killed, it leaves a whole store.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot gc --dry-run\n  \
    ingot gc")]
pub struct Gc {
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Check that the store is whole, and repair it
///
/// Compares the records with what is on disk: every image has all its chunks, every pack is named
/// by its content table. With --data every stored byte is read and verified too. With --repair,
/// what is good in damaged files is kept, the index is built again from the packs, and what is
/// missing is taken from the stores and raw images that --from names; images that still lack
/// something stay recorded and are named. Exits with 4 when something is wrong, or still is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot check --data\n  \
    ingot check --repair --dry-run\n  \
    ingot check --repair --from /mnt/backup/store --from web.raw")]
pub struct Check {
    /// Read and verify every stored byte
    #[arg(long)]
    pub data: bool,
    /// Read and verify every stored byte, and repair what is wrong
    #[arg(long)]
    pub repair: bool,
    /// Take what is missing from another store, or from the raw image of a disk; more than once
    #[arg(long, requires = "repair", value_name = "STORE|FILE")]
    pub from: Vec<String>,
    /// Show what would be repaired, and change nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
}
