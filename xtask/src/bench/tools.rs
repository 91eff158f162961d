//! Ingot and its peers: how each stores a file, gives it back, and what it takes
//! to compare them fairly. All compress with zstd at its usual level.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::measure::{Site, Taken, bytes_below, only_file};
use crate::shell::{cargo, run};

/// Version of bita, the one peer that Debian does not have.
const BITA: &str = "0.15.0";

/// What stores files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// Ours.
    Ingot,
    /// Chunks in files of a folder.
    Casync,
    /// Packs, always encrypted.
    Restic,
    /// Segments; not encrypted here.
    Borg,
    /// One archive per file. Up to 0.15.0 it copies its last chunks before they are
    /// written and loses them where there are few: not seen with whole disks, and
    /// told by every restore.
    Bita,
    /// One stream per file.
    Zstd,
}

impl Tool {
    /// All, in the order of the rounds.
    pub const ALL: [Tool; 6] =
        [Tool::Ingot, Tool::Casync, Tool::Restic, Tool::Borg, Tool::Bita, Tool::Zstd];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Ingot => "ingot",
            Tool::Casync => "casync",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
            Tool::Bita => "bita",
            Tool::Zstd => "zstd -3 -T0",
        }
    }

    /// As it is called where it gives a file back.
    pub fn restoring(self) -> &'static str {
        if self == Tool::Zstd { "zstd -dc | dd" } else { self.name() }
    }
}

/// A store of one tool, empty at first and gone when it is dropped.
pub struct Store<'a> {
    tool: Tool,
    site: &'a Site,
    folder: tempfile::TempDir,
}

impl<'a> Store<'a> {
    /// An empty one.
    pub fn new(site: &'a Site, tool: Tool) -> Result<Store<'a>> {
        let store = Store { tool, site, folder: site.scratch()? };
        let init = match tool {
            Tool::Restic => Some(store.command(&["init"])),
            Tool::Borg => Some(store.command(&["init", "--encryption", "none", "repo"])),
            Tool::Ingot | Tool::Casync | Tool::Bita | Tool::Zstd => None,
        };
        if let Some(init) = init {
            site.run(&init, &[])?;
        }
        Ok(store)
    }

    /// Stores a file under a name.
    pub fn put(&self, file: &Path, name: &str) -> Result<Taken> {
        let mut command = match self.tool {
            Tool::Ingot => self.command(&["import", "--quiet", "--tag", name]),
            Tool::Casync => self.command(&["make", "--store=chunks.castr", &casync_index(name)]),
            Tool::Restic => self.command(&["backup", "--quiet", "--tag", name]),
            Tool::Borg => {
                self.command(&["create", "--compression", "zstd,3", &format!("repo::{name}")])
            }
            Tool::Bita => {
                let zstd = ["compress", "--compression", "zstd", "--compression-level", "3"];
                let mut command = self.command(&zstd);
                command.arg(format!("{name}.cba")).arg("--input");
                command
            }
            Tool::Zstd => self.command(&["-q", "-3", "-T0", "-o", &format!("{name}.zst")]),
        };
        self.site.run(command.arg(file), &[file])
    }

    /// Gives a file back somewhere below `into`, an empty folder.
    pub fn get(&self, name: &str, into: &Path) -> Result<(Taken, PathBuf)> {
        let disk = into.join("disk");
        let command = match self.tool {
            Tool::Ingot => with(self.command(&["export", "--quiet", name]), &disk),
            Tool::Casync => {
                with(self.command(&["extract", "--store=chunks.castr", &casync_index(name)]), &disk)
            }
            Tool::Restic => {
                with(self.command(&["restore", "latest", "--tag", name, "--target"]), into)
            }
            Tool::Borg => {
                let mut command = self.command(&["extract", "--sparse"]);
                command.arg(format!("{}/repo::{name}", self.folder.path().display()));
                command.current_dir(into);
                command
            }
            Tool::Bita => with(self.command(&["clone", &format!("{name}.cba")]), &disk),
            Tool::Zstd => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "zstd -q -dc \"$0\" | dd bs=1M status=none of=\"$1\""]);
                shell.arg(self.folder.path().join(format!("{name}.zst"))).arg(&disk);
                shell
            }
        };
        let taken = self.site.run(&command, &[self.folder.path()])?;
        Ok((taken, only_file(into)?))
    }

    /// Bytes of everything that it keeps.
    pub fn bytes(&self) -> Result<u64> {
        bytes_below(self.folder.path())
    }

    /// The tool, run in the folder of its store.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = match self.tool {
            Tool::Ingot => {
                let mut ingot = Command::new(&self.site.ingot);
                ingot.env("INGOT_STORE", self.folder.path().join("store"));
                ingot
            }
            Tool::Casync => Command::new("casync"),
            Tool::Restic => {
                let mut restic = Command::new("restic");
                restic.args(["--no-cache", "--repo", "repo"]).env("RESTIC_PASSWORD", "bench");
                restic
            }
            Tool::Borg => {
                let mut borg = Command::new("borg");
                // Each store is another repository at another place.
                borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
                borg.env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
                borg
            }
            Tool::Bita => Command::new(&self.site.bita),
            Tool::Zstd => Command::new("zstd"),
        };
        command.args(words).current_dir(self.folder.path());
        command
    }
}

fn casync_index(name: &str) -> String {
    format!("{name}.caibx")
}

fn with(mut command: Command, last: &Path) -> Command {
    command.arg(last);
    command
}

/// The binary of bita, installed below `cache` where it is not.
pub fn install_bita(cache: &Path) -> Result<PathBuf> {
    let root = cache.join(format!("bita-{BITA}"));
    let binary = root.join("bin/bita");
    if !binary.is_file() {
        let install = ["install", "--locked", "--quiet", "--version", BITA];
        let features = ["bita", "--features", "zstd-compression", "--root"];
        println!("installing bita {BITA}");
        run(cargo().args(install).args(features).arg(&root))?;
    }
    Ok(binary)
}
