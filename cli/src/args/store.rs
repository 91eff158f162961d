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
/// built from, what it costs to keep, and which images share how much of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot show debian:12\n  \
    ingot show lab/web:stable --json")]
pub struct Show {
    /// Image to show
    #[arg(value_name = "REF")]
    pub reference: Reference,
}

/// Show what differs between two images
///
/// Prints what a machine that has A fetches for B, as a whole and per partition; what the images say
/// differently, such as partition tables, kernels or provenance; and for ext4 partitions the files
/// that were added or removed, or whose content, mode, owner or link differs. Times, extended
/// attributes and device numbers are not compared.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot diff debian:12 debian:12.1\n  \
    ingot diff web:stable web:next --no-files    # chunks alone: at once\n  \
    ingot diff web:1 web:2 --json | jq -r '.files[].files[].path'")]
pub struct Diff {
    /// Image that is there
    #[arg(value_name = "A")]
    pub from: Reference,
    /// Image that is wanted
    #[arg(value_name = "B")]
    pub to: Reference,
    /// Compare chunks only, and read no files
    #[arg(long)]
    pub no_files: bool,
}

/// Show what the store takes, and for what
///
/// Prints what the images are together: their disks, what of these is not in holes, what is left of
/// it without repetitions, and compressed; and where every byte of the store's folder goes. What
/// `ingot gc` would free is garbage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot du\n  \
    ingot du --json | jq .garbage_bytes")]
pub struct Du {}

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
