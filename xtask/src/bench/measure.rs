//! Runs a command as all others are run: its input not in memory, its output
//! on the disk before the clock stops.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Advice, fadvise, sync, syncfs};
use tempfile::TempDir;

/// What `time` reports: the largest resident set in KiB.
const REPORT: &str = "%M";

/// Where measured commands run and keep things, and where they are.
pub struct Site {
    /// The binary of ingot.
    pub ingot: PathBuf,
    /// The binary of bita.
    pub bita: PathBuf,
    folder: TempDir,
    /// The most memory that ingot took in any run.
    pub ingot_memory: Cell<u64>,
}

/// What a command took.
pub struct Taken {
    /// From its start until its output is on the disk.
    pub wall: Duration,
    /// Bytes that it handed to the kernel to be written.
    pub written: u64,
    /// What it printed.
    pub stdout: Vec<u8>,
}

impl Site {
    /// In the folder for temporary files.
    pub fn new(ingot: PathBuf, bita: PathBuf) -> Result<Site> {
        let folder = tempfile::tempdir().context("cannot create a folder")?;
        Ok(Site { ingot, bita, folder, ingot_memory: Cell::new(0) })
    }

    /// A folder that goes when it is dropped.
    pub fn scratch(&self) -> Result<TempDir> {
        tempfile::tempdir_in(&self.folder).context("cannot create a folder")
    }

    /// Runs a command that reads what is below `inputs`.
    pub fn run(&self, command: &Command, inputs: &[&Path]) -> Result<Taken> {
        let report = self.folder.path().join("time");
        let mut timed = self.under_time(command, &report);
        sync();
        inputs.iter().try_for_each(|input| forget(input))?;
        let (written, begun) = (written_by_children()?, Instant::now());
        let output = timed.output().context(
            "cannot start `time`; `sh xtask/setup.sh bench` installs what the bench needs",
        )?;
        syncfs(File::open(self.folder.path())?)?;
        let wall = begun.elapsed();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?} failed ({}): {}", output.status, said.trim());
        }
        let written = written_by_children()? - written;
        let memory = parse_report(&fs::read_to_string(&report)?)?;
        if command.get_program() == self.ingot.as_os_str() {
            self.ingot_memory.set(self.ingot_memory.get().max(memory));
        }
        Ok(Taken { wall, written, stdout: output.stdout })
    }

    /// The command below `time`, which is small: Linux counts the memory of who
    /// starts a command as the command's own. What tools keep at home stays here.
    fn under_time(&self, command: &Command, report: &Path) -> Command {
        let mut timed = Command::new("time");
        timed.args(["--format", REPORT, "--output"]).arg(report);
        timed.arg(command.get_program()).args(command.get_args());
        timed.env("HOME", self.folder.path()).env_remove("XDG_CACHE_HOME");
        for (name, value) in command.get_envs() {
            timed.env(name, value.unwrap_or_default());
        }
        timed.current_dir(command.get_current_dir().unwrap_or(self.folder.path()));
        timed
    }
}

fn parse_report(text: &str) -> Result<u64> {
    let kib: u64 = text.trim().parse().with_context(|| format!("`time` reports {text:?}"))?;
    Ok(kib << 10)
}

/// Bytes that this process and all that it waited for wrote by system calls
/// (proc_pid_io(5)). Pages made dirty, which `time` has, are counted again
/// whenever they are written back meanwhile.
fn written_by_children() -> Result<u64> {
    let io = fs::read_to_string("/proc/self/io").context("cannot read what was written")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
    bytes.with_context(|| format!("/proc/self/io has no wchar: {io:?}"))
}

/// Takes a file, or all files of a folder, out of the page cache.
fn forget(path: &Path) -> Result<()> {
    for file in files_below(path)? {
        fadvise(File::open(&file)?, 0, None, Advice::DontNeed)
            .with_context(|| format!("cannot drop {} from memory", file.display()))?;
    }
    Ok(())
}

/// Bytes of a file or of all files of a folder, without their holes' and blocks' doing.
pub fn bytes_below(path: &Path) -> Result<u64> {
    files_below(path)?.iter().map(|file| Ok(file.metadata()?.len())).sum()
}

/// The one file that there is below `folder`.
pub fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut files = files_below(folder)?;
    ensure!(files.len() == 1, "{} files in {} instead of one", files.len(), folder.display());
    files.pop().context("no file")
}

fn files_below(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata = path.symlink_metadata().with_context(|| format!("no {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(if metadata.is_file() { vec![path.to_owned()] } else { Vec::new() });
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        files.extend(files_below(&entry?.path())?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_time_is_read() {
        assert_eq!(parse_report("2048\n").unwrap(), 2 << 20);
        // It says so when the command failed.
        let failed = "Command exited with non-zero status 1\n1\n";
        assert!(parse_report(failed).is_err() && parse_report("").is_err());
    }

    #[test]
    fn files_are_found_and_counted_at_any_depth_and_links_are_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), [0; 10]).unwrap();
        std::os::unix::fs::symlink("b/file", folder.path().join("a/link")).unwrap();
        assert_eq!(only_file(folder.path()).unwrap(), folder.path().join("a/b/file"));
        fs::write(folder.path().join("more"), [0; 5]).unwrap();
        assert_eq!(bytes_below(folder.path()).unwrap(), 15);
        assert!(only_file(folder.path()).is_err());
    }

    #[test]
    fn a_command_is_run_with_what_was_set_and_its_failure_told() {
        let site = Site::new("/bin/sh".into(), PathBuf::new()).unwrap();
        let scratch = site.scratch().unwrap();
        let shell = |script: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.current_dir(scratch.path()).env("WORD", "said").args(["-c", script]);
            shell
        };
        let taken = site.run(&shell("echo $WORD; echo text > file"), &[]).unwrap();
        assert_eq!(taken.stdout, b"said\n");
        assert_eq!(bytes_below(scratch.path()).unwrap(), 5);
        assert!(site.ingot_memory.get() > 0);
        let taken = site.run(&shell("head -c 100000 /dev/zero > file"), &[]).unwrap();
        assert!((100_000..101_000).contains(&taken.written), "{}", taken.written);
        let error = site.run(&shell("echo why >&2; exit 3"), &[]).err().unwrap();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
