//! Two trees, side by side.

use std::collections::BTreeMap;

use ext4_view::{Ext4, Ext4Error, Path, PathBuf};

use super::ext4::{self, Failure};
use super::files::{Aspect, Change, File, FileDiff, Kind};

/// Bytes of a file that are compared at a time.
const PIECE: usize = 64 << 10;
/// Most files that are looked at: a damaged file system may lead in circles.
const FILES_MAX: usize = 1 << 24;

/// Names in a directory, with their paths.
type Names = BTreeMap<Vec<u8>, (PathBuf, File)>;

/// The files that differ, by path.
pub(super) fn compare(old: &Ext4, new: &Ext4) -> Result<Vec<FileDiff>, Failure> {
    let mut walk = Walk { old, new, found: Vec::new(), looked: 0 };
    let root = Path::new("/");
    let [before, after] = [old, new].map(|fs| ext4::file(fs, root, &fs.metadata(root)?));
    walk.both(root, before?, after?)?;
    walk.found.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(walk.found)
}

struct Walk<'a> {
    old: &'a Ext4,
    new: &'a Ext4,
    found: Vec<FileDiff>,
    looked: usize,
}

impl<'a> Walk<'a> {
    /// What both have. Directories are looked into.
    fn both(&mut self, path: Path<'_>, from: File, to: File) -> Result<(), Failure> {
        let mut todo = vec![(PathBuf::from(path), from, to)];
        while let Some((path, from, to)) = todo.pop() {
            let path = path.as_path();
            let kinds = (from.kind, to.kind);
            self.note(path, from, to)?;
            if kinds == (Kind::Directory, Kind::Directory) {
                let mut after = self.names(self.new, path)?;
                for (name, (path, from)) in self.names(self.old, path)? {
                    match after.remove(&name) {
                        Some((_, to)) => todo.push((path, from, to)),
                        None => self.only(Change::Removed, path, from)?,
                    }
                }
                for (path, to) in after.into_values() {
                    self.only(Change::Added, path, to)?;
                }
            } else if kinds.0 == Kind::Directory {
                self.below(Change::Removed, path)?;
            } else if kinds.1 == Kind::Directory {
                self.below(Change::Added, path)?;
            }
        }
        Ok(())
    }

    /// What one of them has, with everything below.
    fn only(&mut self, change: Change, path: PathBuf, file: File) -> Result<(), Failure> {
        let side = self.side(change);
        let mut todo = vec![(path, file)];
        while let Some((path, file)) = todo.pop() {
            if file.kind == Kind::Directory {
                todo.extend(self.names(side, path.as_path())?.into_values());
            }
            let (from, to) = match change {
                Change::Removed => (Some(file), None),
                _ => (None, Some(file)),
            };
            let path = path.display().to_string();
            self.found.push(FileDiff { path, change, differs: Vec::new(), from, to });
        }
        Ok(())
    }

    /// Everything below a directory that one of them has.
    fn below(&mut self, change: Change, path: Path<'_>) -> Result<(), Failure> {
        let side = self.side(change);
        for (path, file) in self.names(side, path)?.into_values() {
            self.only(change, path, file)?;
        }
        Ok(())
    }

    fn side(&self, change: Change) -> &'a Ext4 {
        match change {
            Change::Removed => self.old,
            _ => self.new,
        }
    }

    /// What a directory has.
    fn names(&mut self, fs: &Ext4, path: Path<'_>) -> Result<Names, Failure> {
        let mut names = Names::new();
        for entry in fs.read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == "." || name == ".." {
                continue;
            }
            self.looked += 1;
            if self.looked > FILES_MAX {
                let why = format!("it has more than {FILES_MAX} files, or leads in circles");
                return Err(Failure::Other { why });
            }
            let path = entry.path();
            let file = ext4::file(fs, path.as_path(), &entry.metadata()?)?;
            names.insert(name.as_ref().to_vec(), (path, file));
        }
        Ok(names)
    }

    /// Notes two files if they differ.
    fn note(&mut self, path: Path<'_>, from: File, to: File) -> Result<(), Failure> {
        let mut differs = Vec::new();
        if from.kind != to.kind {
            differs.push(Aspect::Kind);
        } else if from.kind == Kind::File
            && (from.bytes != to.bytes || !same_content(self.old, self.new, path)?)
        {
            differs.push(Aspect::Content);
        } else if from.target != to.target {
            differs.push(Aspect::Target);
        }
        if from.mode != to.mode {
            differs.push(Aspect::Mode);
        }
        if (from.uid, from.gid) != (to.uid, to.gid) {
            differs.push(Aspect::Owner);
        }
        if !differs.is_empty() {
            let (path, change) = (path.display().to_string(), Change::Changed);
            self.found.push(FileDiff { path, change, differs, from: Some(from), to: Some(to) });
        }
        Ok(())
    }
}

/// Whether two files of equal length have the same bytes.
fn same_content(old: &Ext4, new: &Ext4, path: Path<'_>) -> Result<bool, Ext4Error> {
    let (mut old, mut new) = (old.open(path)?, new.open(path)?);
    let (mut before, mut after) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let before = fill(&mut old, &mut before)?;
        if before != fill(&mut new, &mut after)? {
            return Ok(false);
        }
        if before.is_empty() {
            return Ok(true);
        }
    }
}

/// The next bytes of a file: as many as there is room for, unless it ends.
fn fill<'b>(file: &mut ext4_view::File, buffer: &'b mut [u8]) -> Result<&'b [u8], Ext4Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_bytes(&mut buffer[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(&buffer[..filled])
}
