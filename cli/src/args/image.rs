//! Making images and putting them somewhere.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wire::Reference;

/// Build an image from a recipe and store it
///
/// Runs the recipe's steps in a sandbox, assembles a disk image that boots under BIOS and UEFI,
/// and stores it. The same recipe with the same inputs gives the same image digest. Packages and
/// the base system are cached, so that a second build takes seconds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot build recipes/demo.toml -t demo:latest\n  \
    ingot build web.toml -t lab/web:stable -v    # with what the tools print\n  \
    ingot build web.toml -t web:new --refresh --keep-disk web.raw")]
pub struct Build {
    /// Recipe to follow (TOML)
    pub recipe: PathBuf,
    /// Name the image, as name[:tag]
    #[arg(long, short = 't', value_name = "REF")]
    pub tag: Reference,
    /// Ignore cached packages and bases, fetch them anew
    #[arg(long)]
    pub refresh: bool,
    /// Keep the raw disk image in this file too
    #[arg(long, value_name = "FILE")]
    pub keep_disk: Option<PathBuf>,
}

/// Store a disk image made elsewhere
///
/// Reads a raw disk image from a file, a device or standard input ("-"), cuts it into chunks and
/// stores those that the store does not have. Partitions and holes are recognised. A partition
/// alone, such as /dev/sdb1, becomes an image too: one without a partition table. What a clean ext4
/// or FAT calls free is not kept, whatever is there: these bytes are zeros in the image.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot import disk.raw -t lab/web:1.2\n  \
    ingot import - -t debian:cloud < debian-12-generic-amd64.raw\n  \
    ingot import evidence.raw -t case:7 --exact")]
pub struct Import {
    /// Raw disk image: a file, a device, or "-" for standard input
    #[arg(value_name = "FILE|-")]
    pub source: PathBuf,
    /// Keep every byte of the disk, free blocks too
    #[arg(long)]
    pub exact: bool,
    /// Name the image, as name[:tag]
    #[arg(long, short = 't', value_name = "REF")]
    pub tag: Reference,
}

/// Write an image out as a file
///
/// Every byte is verified on its way out. The file appears under its name only when it is whole;
/// holes stay holes. An existing file is replaced. "-" writes to standard output.
///
/// With --partition, or --offset and --bytes, only that part of the disk is read and written.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot export debian:12 - | ssh host 'cat > debian.raw'\n  \
    ingot export debian:12 vm.qcow2 --format qcow2\n  \
    ingot export lab/web:1.2 root.ext4 --partition 3")]
pub struct Export {
    /// Image to write
    #[arg(value_name = "REF")]
    pub reference: Reference,
    /// File to make, or "-" for standard output
    #[arg(value_name = "FILE|-")]
    pub target: PathBuf,
    /// Format of the file
    #[arg(long, value_enum, default_value = "raw")]
    pub format: Format,
    /// Only the partition of this number, as `ingot show` lists it
    #[arg(long, value_name = "N", conflicts_with_all = ["offset", "bytes"])]
    pub partition: Option<u32>,
    /// Only what stands behind this many bytes of the disk, such as 1MiB
    #[arg(long, value_name = "SIZE", value_parser = wire::expr::size)]
    pub offset: Option<u64>,
    /// Only as much, such as 4096 or 512MiB
    #[arg(long, value_name = "SIZE", value_parser = wire::expr::size)]
    pub bytes: Option<u64>,
}

/// Formats of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The disk's bytes, as `dd` would read them
    Raw,
    /// For QEMU: holes take no room, however the file is copied
    Qcow2,
}

/// Write an image to a disk of this computer
///
/// Compares the disk with the image, shows what it is going to do, writes what differs, reads
/// everything back past the cache and compares. On a disk that holds a related image, such as an
/// older version, only the blocks that differ are written, and only their chunks are read from the
/// store. Mounted disks, and disks whose partitions are mounted, are refused. A block device is
/// written only with --yes: everything on it will be lost.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot write debian:12 /dev/sdx --plan    # look, change nothing\n  \
    ingot write debian:12 /dev/sdx --yes\n  \
    ingot write debian:12 vm-disk.raw        # an existing file as the disk")]
pub struct Write {
    /// Image to write
    #[arg(value_name = "REF")]
    pub reference: Reference,
    /// Disk to write to: a block device, or an existing file that stands for one
    pub device: PathBuf,
    /// Show the plan and stop; reads as much of the disk as the image has, if it has any of it
    #[arg(long)]
    pub plan: bool,
    /// Go ahead although everything on the block device will be lost
    #[arg(long, conflicts_with = "plan")]
    pub yes: bool,
}
