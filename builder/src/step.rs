//! One step of a recipe: packages, then files, then the script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::EPOCH;
use crate::apt::{self, Apt, AptError};
use crate::cache::{CacheError, at};
use crate::configuration::Given;
use crate::key::Key;
use crate::recipe::{File, Script, Step};
use crate::sandbox::{Access, Sandbox};
use crate::tool::{self, Log, ToolError};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Its files cannot be laid out.
    #[error(transparent)]
    Stage(#[from] CacheError),
    /// Its packages cannot be fetched.
    #[error("cannot get its packages")]
    Fetch(#[from] AptError),
    /// Its packages cannot be installed.
    #[error("cannot install its packages")]
    Install(#[source] ToolError),
    /// Its files cannot be put into the tree.
    #[error("cannot copy its files into the tree")]
    Files(#[source] ToolError),
    /// Its script failed.
    #[error("its script failed")]
    Script(#[source] ToolError),
    /// What differs from build to build cannot be taken out of the tree.
    #[error("cannot tidy the tree")]
    Tidy(#[source] ToolError),
    /// What every image gets cannot be put into the tree.
    #[error("cannot prepare the tree")]
    Prepare(#[source] ToolError),
}

/// Installs inside what [`apt::download`] fetched. The tree's own sources and
/// cache are left alone.
const INSTALL: &str = r#"exec apt-get --yes --no-download \
    -o Dir::State::lists=/run/ingot/lists -o Dir::Cache::archives=/run/ingot/debs \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o Dir::Etc::sourcelist=/run/ingot/sources.list -o Dir::Etc::sourceparts=/dev/null \
    -o APT::Sandbox::User=root -o APT::Install-Recommends=false \
    -o Acquire::Languages=none -o Debug::NoLocking=true -o Dpkg::Use-Pty=false \
    -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold install "$@""#;

/// Unpacks as any package would: a link in the tree leads where it leads there,
/// and folders that exist keep owner and mode.
const COPY: &str = "tar --create --directory=/run/ingot/files --owner=0 --group=0 . \
                    | tar --extract --directory=/ --same-permissions --no-overwrite-dir \
                      --keep-directory-symlink";

/// What leaves the tree after every step, and the times of what stays.
pub(crate) const TIDY: &str = include_str!("assets/tidy.sh");
/// Folders that the sandbox covers with its own, or makes to do so.
const COVERED: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// Adds everything that a recipe says of a step.
pub(crate) fn add_to_key(key: Key, step: &Step, given: &Given) -> Key {
    let mut key = key.list("packages", step.packages.iter());
    for (path, file) in &step.files {
        key = key.field("file", path).field("mode", file.mode.to_string()).field("", &file.bytes);
    }
    match &step.script {
        Some(script) => given.add_to_key(key.field("script", &script.bytes), script),
        None => key,
    }
}

/// Does a step in the tree at `root`.
pub(crate) fn run(
    apt: Apt<'_>,
    root: &Path,
    step: &Step,
    given: &Given,
    log: Log<'_>,
) -> Result<(), StepError> {
    if !step.packages.is_empty() {
        install(apt, root, &step.packages, log)?;
    }
    if !step.files.is_empty() {
        copy(apt.work, root, step.files.iter(), log)?;
    }
    if let Some(script) = &step.script {
        run_script(apt.work, root, Access::Write, script, given, log)?
            .map_err(StepError::Script)?;
    }
    tidy(root, log).map_err(StepError::Tidy)
}

/// Makes the tree depend on nothing but what went into it.
pub(crate) fn tidy(root: &Path, log: Log<'_>) -> Result<(), ToolError> {
    Sandbox::new(root, Access::Write).run("tidy.sh", &["sh", "-c", TIDY], log)?;
    let mut touch = tool::command("touch", EPOCH);
    touch.args(["--no-create", "--no-dereference"]).arg(format!("--date=@{EPOCH}"));
    tool::run(touch.args(COVERED.map(|name| root.join(name))), log)
}

fn install(apt: Apt<'_>, root: &Path, packages: &[String], log: Log<'_>) -> Result<(), StepError> {
    let downloaded = apt::download(apt, root, packages, log)?;
    let list = apt.work.join("sources.list");
    fs::write(&list, apt.sources.text()).map_err(at("write", &list))?;
    let mut command = vec!["sh", "-c", INSTALL, "sh"];
    command.extend(packages.iter().map(String::as_str));
    Sandbox::new(root, Access::Write)
        .show(&downloaded.lists, "/run/ingot/lists")
        .show(&downloaded.debs, "/run/ingot/debs")
        .show(&list, "/run/ingot/sources.list")
        .run("apt-get", &command, log)
        .map_err(StepError::Install)
}

/// Puts files into the tree, owned by root; folders that are missing are made.
pub(crate) fn copy<'a>(
    work: &Path,
    root: &Path,
    files: impl Iterator<Item = (&'a String, &'a File)>,
    log: Log<'_>,
) -> Result<(), StepError> {
    let staged = work.join("files");
    crate::cache::remove(&staged)?;
    fs::create_dir(&staged).map_err(at("create", &staged))?;
    for (path, file) in files {
        let path = staged.join(path);
        let folder = path.parent().unwrap_or(&staged);
        fs::create_dir_all(folder).map_err(at("create", folder))?;
        fs::write(&path, &file.bytes).map_err(at("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))
            .map_err(at("write", &path))?;
    }
    open_folders(&staged)?;
    Sandbox::new(root, Access::Write)
        .show(&staged, "/run/ingot/files")
        .run("tar", &["sh", "-c", COPY], log)
        .map_err(StepError::Files)
}

/// Runs a script of the recipe in the tree. The outer error is ours, the inner
/// one the script's.
pub(crate) fn run_script(
    work: &Path,
    root: &Path,
    access: Access,
    script: &Script,
    given: &Given,
    log: Log<'_>,
) -> Result<Result<(), ToolError>, CacheError> {
    let path = work.join("script");
    fs::write(&path, &script.bytes).map_err(at("write", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(at("write", &path))?;
    let inside = "/run/ingot/script";
    let command: &[&str] =
        if script.bytes.starts_with(b"#!") { &[inside] } else { &["/bin/sh", "-eu", inside] };
    let sandbox = Sandbox::new(root, access).tell(given.to(script)).show(&path, inside);
    Ok(sandbox.run(&script.name, command, log))
}

/// Folders are made with the umask of whoever builds; in the tree they are 0755.
fn open_folders(folder: &Path) -> Result<(), CacheError> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(at("write", folder))?;
    for entry in fs::read_dir(folder).map_err(at("read", folder))? {
        let entry = entry.map_err(at("read", folder))?;
        if entry.file_type().map_err(at("read", folder))?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}
