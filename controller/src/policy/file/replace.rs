//! Another text in place of the policy file's, put in force at once.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use wire::Digest;
use wire::admin::{PolicyProblem, PolicyStatus};

use super::{Lines, PolicyFile, Stamp, digest};
use crate::policy::Policy;

/// Why a policy was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// There is no file to replace.
    #[error(
        "this server has no policy file: name one as `file` in [policy] of its configuration, and \
         start it again"
    )]
    NoFile,
    /// Nobody is to write to it.
    #[error(
        "the policy file {path:?} is read-only: change it where it comes from, or give its owner \
         the right to write to it"
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else was faster.
    #[error(
        "the policy was changed meanwhile: {in_force} is in force, and the change is one of \
         {instead_of}; nothing was written. Look at what is in force, and make the change to that"
    )]
    Stale {
        /// What was to be replaced.
        instead_of: Digest,
        /// What is in force.
        in_force: Digest,
    },
    /// The file has something else than what is in force.
    #[error(
        "the policy file {path:?} was changed or removed by hand and is not what is in force{}; \
         nothing was written. Look again in a few seconds, or mend the file",
        why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
    )]
    Edited {
        /// The file.
        path: PathBuf,
        /// Why it is not in force.
        why: Option<String>,
    },
    /// The new text has problems.
    #[error("the policy has problems, and nothing was written:\n{}", Lines { path, problems })]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problems: Vec<PolicyProblem>,
    },
    /// It could not be written.
    #[error("the policy file {path:?} could not be written ({cause}): what it has is in force")]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl PolicyFile {
    /// Puts a text in place of the one with this digest, in the file and in force.
    /// The same once more changes nothing. Waits for the disk.
    pub fn replace(&self, text: &str, instead_of: Digest) -> Result<PolicyStatus, ReplaceError> {
        if self.path.as_os_str().is_empty() {
            return Err(ReplaceError::NoFile);
        }
        // Nothing is half-done here that a panic could leave so.
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_force, why) = {
            let loaded = self.refreshed();
            (loaded.text.clone(), loaded.error.clone())
        };
        // Whoever repeats himself is told the same.
        if *in_force != *text && digest(&in_force) != instead_of {
            return Err(ReplaceError::Stale { instead_of, in_force: digest(&in_force) });
        }
        let path = || self.path.clone();
        if !self.has(&in_force) {
            return Err(ReplaceError::Edited { path: path(), why });
        }
        let policy = Policy::parse_with(text, &|recipe| (self.recipes)(&self.recipe(recipe)))
            .map_err(|problems| ReplaceError::Wrong { path: path(), problems })?;
        if *in_force == *text {
            return Ok(self.status());
        }
        let unwritten = |cause| ReplaceError::Unwritten { path: path(), cause };
        if self.path.metadata().map_err(unwritten)?.permissions().readonly() {
            return Err(ReplaceError::ReadOnly { path: path() });
        }
        // Reading the recipes takes time: somebody may have written since.
        if !self.has(&in_force) {
            return Err(ReplaceError::Edited { path: path(), why });
        }
        let written = (self.write)(&self.path, text);
        let taken_up = self.take_up(policy, text);
        written.map_err(unwritten)?;
        if !taken_up {
            return Err(ReplaceError::Edited { path: path(), why: None });
        }
        tracing::info!(file = %self.path.display(), digest = %digest(text), "policy replaced");
        Ok(self.status())
    }

    /// Puts a policy in force if the file has its text, whatever came of writing
    /// it: the two never disagree. Whether it has.
    fn take_up(&self, policy: Policy, text: &str) -> bool {
        // Taken before reading: a file written meanwhile is read again next time.
        let stamp = Stamp::of(&self.path);
        let has = self.has(text);
        if has {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            (loaded.policy, loaded.text) = (Arc::new(policy), text.into());
            (loaded.stamp, loaded.error) = (stamp, None);
        }
        has
    }

    /// Whether the file has this text now.
    fn has(&self, text: &str) -> bool {
        let len = |file: &fs::Metadata| usize::try_from(file.len()).unwrap_or(usize::MAX);
        let may = self.path.metadata().is_ok_and(|file| len(&file) == text.len());
        may && fs::read(&self.path).is_ok_and(|bytes| bytes == text.as_bytes())
    }
}

/// Writes a file anew, with the owner and the rights that it had. Whenever the
/// power fails it has the old text or the new one, and once this returns the new.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    // Where the path is a link, that stays.
    let path = path.canonicalize()?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let old = path.metadata()?;
    let mut new = tempfile::Builder::new().prefix(".ingot-policy-").tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    let file = new.as_file();
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(old.permissions())?;
    file.sync_all()?;
    new.persist(&path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
