//! The command line exactly as typed: no files read, no defaults from outside
//! looked up. [`crate::context`] resolves it.

pub mod fleet;
pub mod image;
pub mod meta;
pub mod push;
pub mod server;
pub mod store;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Everything that can be typed after `ingot`.
#[derive(Debug, Parser)]
#[command(
    name = "ingot",
    version,
    styles = STYLES,
    about = "Casts operating systems onto bare metal",
    long_about = "Casts operating systems onto bare metal.\n\n\
        ingot builds OS images from recipes, keeps them as deduplicated content in a store, and \
        boots machines over the network into a small agent that writes the image chosen by your \
        policy to their disk, proves what it wrote, and starts it.",
    after_help = "Getting started:\n  \
        ingot build recipe.toml -t debian:12       make an image and store it\n  \
        ingot ls                                   see what the store holds\n  \
        ingot serve --config ingot.toml --check    is this server configuration sound?\n  \
        ingot serve --config ingot.toml            boot and install machines\n  \
        ingot run ls                               watch what happens to them\n\n\
        Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 damage found, 5 mistake in a file,\n\
        6 refused for safety, 7 server out of reach, 130 interrupted.",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Store of images: a folder, or s3://BUCKET/PREFIX [default: your data directory]
    ///
    /// Defaults to /var/lib/ingot/store for root and to ingot/store in the data directory
    /// (XDG_DATA_HOME, else ~/.local/share) for everyone else. For a bucket, the usual AWS_...
    /// variables name its server and the credentials; its records are kept in the data directory.
    #[arg(
        long,
        global = true,
        env = "INGOT_STORE",
        value_name = "URL|PATH",
        hide_env_values = true
    )]
    pub store: Option<String>,

    /// Folder for what can be fetched or built again [default: your cache directory]
    ///
    /// Packages, base systems, built disks and kernels. Defaults to /var/cache/ingot for root and
    /// to ingot in the cache directory (XDG_CACHE_HOME, else ~/.cache) for everyone else.
    #[arg(long, global = true, env = "INGOT_CACHE", value_name = "DIR", hide_env_values = true)]
    pub cache: Option<PathBuf>,

    /// Server to ask about machines, runs and policy [default: http://127.0.0.1:8460]
    #[arg(long, global = true, env = "INGOT_SERVER", value_name = "URL", hide_env_values = true)]
    pub server: Option<String>,

    /// Print results as JSON on stdout, progress and errors as JSON lines on stderr
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing but results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more about what is being done; twice for libraries' own messages
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// When to use colours; auto obeys NO_COLOR and uses them on terminals only
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub color: ColorWhen,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On terminals, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do, in the order in which people meet it.
#[derive(Debug, Subcommand)]
pub enum Command {
    Build(image::Build),
    Import(image::Import),
    Export(image::Export),
    Write(image::Write),
    Push(push::Push),
    Ls(store::Ls),
    Show(store::Show),
    Diff(store::Diff),
    Du(store::Du),
    Tag(store::Tag),
    Rm(store::Rm),
    Gc(store::Gc),
    Check(store::Check),
    Serve(server::Serve),
    #[command(subcommand)]
    Boot(server::Boot),
    #[command(subcommand)]
    Machine(fleet::Machine),
    Deploy(fleet::Deploy),
    #[command(subcommand)]
    Run(fleet::Run),
    #[command(subcommand)]
    Policy(fleet::Policy),
    Completions(meta::Completions),
    Man(meta::Man),
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// Calls `check` on every command that does something, with its full name.
    fn each_leaf(command: &clap::Command, path: &str, check: &mut dyn FnMut(&str, &clap::Command)) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        if command.get_name() == "help" {
            return;
        }
        if command.has_subcommands() {
            command.get_subcommands().for_each(|sub| each_leaf(sub, &path, check));
        } else {
            check(&path, command);
        }
    }

    #[test]
    fn every_command_teaches_with_one_line_a_longer_text_and_examples() {
        let mut cli = Cli::command();
        cli.build();
        let mut seen = 0;
        each_leaf(&cli, "", &mut |path, command| {
            let text = |s: Option<&clap::builder::StyledStr>| s.map(ToString::to_string);
            let about = text(command.get_about()).unwrap_or_default();
            let long = text(command.get_long_about()).unwrap_or_default();
            let after = text(command.get_after_help()).unwrap_or_default();
            assert!(
                !about.is_empty() && !about.contains('\n') && about.len() <= 72,
                "{path}: {about}"
            );
            assert!(!about.ends_with('.'), "{path}: one line is a phrase");
            assert!(long.len() > about.len(), "{path}: no longer text");
            let examples = after.strip_prefix("Examples:\n").unwrap_or_else(|| panic!("{path}"));
            let count = examples.lines().filter(|l| l.starts_with("  ingot ")).count();
            assert!((1..=3).contains(&count), "{path}: {count} examples");
            seen += 1;
        });
        assert!(seen >= 18, "only {seen} commands");
    }

    #[test]
    fn the_page_names_every_command_and_global_option() {
        let page = include_str!("../../../docs/cli.md");
        let mut cli = Cli::command();
        cli.build();
        each_leaf(&cli, "", &mut |path, command| {
            assert!(
                page.contains(&format!("`{path} ")) || page.contains(&format!("`{path}`")),
                "{path}"
            );
            for option in command.get_arguments().filter_map(clap::Arg::get_env) {
                let variable = option.to_string_lossy();
                assert!(page.contains(&format!("`{variable}`")), "{variable}");
            }
        });
    }

    #[test]
    fn every_example_parses() {
        let mut cli = Cli::command();
        cli.build();
        each_leaf(&cli, "", &mut |path, command| {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines().filter(|l| l.starts_with("  ingot ")) {
                let words = shlex::split(line).unwrap();
                let ends = |word: &String| ["|", ">", "<"].contains(&word.as_str());
                let words = words.into_iter().take_while(|word| !ends(word));
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{path}: {line}\n{error}");
                }
            }
        });
    }
}
