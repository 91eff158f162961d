//! About the command line itself.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Print the completions for a shell
///
/// Source the output in your shell's start-up file, or put it where your distribution keeps
/// completions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ingot completions bash > /usr/share/bash-completion/completions/ingot\n  \
    ingot completions zsh > ~/.zfunc/_ingot\n  \
    ingot completions fish > ~/.config/fish/completions/ingot.fish")]
pub struct Completions {
    /// Which shell
    pub shell: Shell,
}

/// Write the manual pages into a folder
///
/// One page per command, made from the same text as --help. For packagers.
#[derive(Debug, Args)]
#[command(hide = true)]
#[command(after_help = "Examples:\n  \
    ingot man --out /usr/share/man/man1")]
pub struct Man {
    /// Folder to write to; made where it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
