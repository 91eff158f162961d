//! The server and what it boots machines with.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Serve images, network boot and management
///
/// One process that boots machines over the network (DHCP, TFTP, HTTP), decides by policy which
/// image each one gets, and serves the images. Only what must be said has to be in the
/// configuration: see the commented example in examples/ingot.toml. SIGTERM or Ctrl-C ends it
/// cleanly: running transfers get a few seconds, and agents go on where they stopped once the
/// server is back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot serve --config ingot.toml --check    # is everything in place?\n  \
    ingot serve --config /etc/ingot/ingot.toml")]
pub struct Serve {
    /// Configuration (TOML)
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Check configuration, policy, boot assets, folders and ports, then stop
    #[arg(long)]
    pub check: bool,
}

/// Prepare what machines boot over the network
#[derive(Debug, Subcommand)]
pub enum Boot {
    Assets(Assets),
}

/// Pack the agent with a kernel and its drivers
///
/// Makes the folder of files that machines boot over the network: a stock Debian kernel, an
/// initramfs of the agent and the drivers that it needs, and the EFI stub that the server joins
/// them with for UEFI machines. A folder that holds what would be made is left as it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot boot assets --out /var/lib/ingot/assets --agent target/ingot-agent\n  \
    ingot boot assets --out assets --agent ingot-agent --kernel linux-image-cloud-amd64\n  \
    ingot boot assets --out assets --agent ingot-agent --vmlinuz bzImage --modules lib/modules/6.1")]
pub struct Assets {
    /// Folder to make or refresh
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Agent to pack: a static binary
    #[arg(long, value_name = "FILE")]
    pub agent: PathBuf,
    /// Debian package of the kernel, from the sources that this host's apt knows
    #[arg(long, value_name = "PACKAGE", default_value = "linux-image-amd64")]
    pub kernel: String,
    /// Kernel of your own, instead of a package
    #[arg(long, value_name = "FILE", requires = "modules", conflicts_with = "kernel")]
    pub vmlinuz: Option<PathBuf>,
    /// Folder /lib/modules/RELEASE of that kernel
    #[arg(long, value_name = "DIR", requires = "vmlinuz")]
    pub modules: Option<PathBuf>,
    /// EFI stub [default: the one of the Debian package systemd-boot-efi]
    #[arg(long, value_name = "FILE")]
    pub stub: Option<PathBuf>,
}
