use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::policy::{PolicyError, RecipeFacts};

fn rule(name: &str) -> String {
    format!("[[rule]]\nname = '{name}'\nhold = 'wait'\n")
}

/// A policy file with one rule, in a folder of its own.
fn site(name: &str) -> (TempDir, PathBuf, PolicyFile) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    put(&path, &rule(name));
    let mut file = PolicyFile::open(&path, |_| Ok(RecipeFacts::default())).unwrap();
    file.clock = clock;
    (dir, path, file)
}

/// The time in these tests.
fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

/// Edits a file by hand, an hour ago.
fn put(path: &Path, text: &str) {
    edit(path, text, Duration::from_secs(3600));
}

fn edit(path: &Path, text: &str, age: Duration) {
    fs::write(path, text).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(clock() - age).unwrap();
}

/// The text of the file, and the name of the rule in force.
fn stands(path: &Path, file: &PolicyFile) -> (String, String) {
    (fs::read_to_string(path).unwrap(), file.current().rules()[0].name.clone())
}

fn names(dir: &TempDir) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(dir.path()).unwrap().map(name).collect()
}

#[test]
fn a_text_is_in_the_file_and_in_force_at_once_and_keeps_the_rights() {
    let (dir, path, file) = site("a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let before = file.status();
    assert_eq!(before.text, Some(rule("a")));
    let status = file.replace(&rule("b"), before.digest.unwrap()).unwrap();
    assert_eq!((status.rules, status.text), (vec!["b".to_owned()], Some(rule("b"))));
    assert_eq!(status.digest, Some(digest(&rule("b"))));
    assert_eq!(stands(&path, &file), (rule("b"), "b".to_owned()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(&dir), ["policy.toml"]);
    // It is in the file for the next process, too.
    let again = PolicyFile::open(&path, |_| Ok(RecipeFacts::default())).unwrap();
    assert_eq!(again.status().digest, Some(digest(&rule("b"))));
}

#[test]
fn a_change_of_a_text_that_is_not_in_force_any_more_is_refused() {
    let (_dir, path, file) = site("a");
    let first = digest(&rule("a"));
    file.replace(&rule("b"), first).unwrap();
    let error = file.replace(&rule("c"), first).unwrap_err();
    assert!(
        matches!(error, ReplaceError::Stale { in_force, .. } if in_force == digest(&rule("b")))
    );
    assert_eq!(stands(&path, &file), (rule("b"), "b".to_owned()));
    // Whoever did not hear the answer and asks again hears it.
    assert_eq!(file.replace(&rule("b"), first).unwrap().rules, ["b"]);
}

#[test]
fn a_text_with_problems_changes_nothing_and_says_where_they_are() {
    let (_dir, path, file) = site("a");
    let wrong = rule("a") + "[[rule]]\nname = 'b'\nhold = 4\n";
    let error = file.replace(&wrong, digest(&rule("a"))).unwrap_err().to_string();
    assert!(error.ends_with("policy.toml:6:8: hold is a text in quotes, not integer"), "{error}");
    assert_eq!(stands(&path, &file), (rule("a"), "a".to_owned()));
}

#[test]
fn the_recipes_of_a_text_are_looked_at_as_when_the_file_is_read() {
    let (_dir, path, _) = site("a");
    let recipes = |path: &Path| Err(format!("{} is not there", path.display()));
    let file = PolicyFile::open(&path, recipes).unwrap();
    let wants = "[[rule]]\nname = 'b'\nrecipe = 'b.toml'\n";
    let error = file.replace(wants, digest(&rule("a"))).unwrap_err().to_string();
    let recipe = path.with_file_name("b.toml");
    assert!(error.ends_with(&format!(":3:10: {} is not there", recipe.display())), "{error}");
}

#[test]
fn what_was_edited_by_hand_is_not_overwritten() {
    let (_dir, path, file) = site("a");
    let first = digest(&rule("a"));
    // Just now: it is not read yet.
    edit(&path, &rule("hand"), Duration::from_secs(1));
    let error = file.replace(&rule("b"), first).unwrap_err();
    assert!(matches!(&error, ReplaceError::Edited { why: None, .. }), "{error}");
    assert_eq!(stands(&path, &file), (rule("hand"), "a".to_owned()));
    // A while ago, and wrong.
    put(&path, "[[rule]]\n");
    let error = file.replace(&rule("b"), first).unwrap_err().to_string();
    assert!(error.contains("policy.toml:1:1: this rule has no name"), "{error}");
    assert_eq!(stands(&path, &file), ("[[rule]]\n".to_owned(), "a".to_owned()));
    // A while ago, and right: then it is in force, and may be replaced.
    put(&path, &rule("hand"));
    let error = file.replace(&rule("b"), first).unwrap_err();
    assert!(matches!(error, ReplaceError::Stale { .. }));
    file.replace(&rule("b"), digest(&rule("hand"))).unwrap();
    assert_eq!(stands(&path, &file), (rule("b"), "b".to_owned()));

    fs::remove_file(&path).unwrap();
    let error = file.replace(&rule("c"), digest(&rule("b"))).unwrap_err();
    assert!(error.to_string().contains("changed or removed by hand"), "{error}");
    assert!(!path.exists(), "nothing is put where there was nothing");
}

#[test]
fn a_file_that_is_edited_by_hand_afterwards_is_read_again() {
    let (_dir, path, file) = site("a");
    file.replace(&rule("b"), digest(&rule("a"))).unwrap();
    put(&path, &rule("hand"));
    assert_eq!(stands(&path, &file), (rule("hand"), "hand".to_owned()));
}

#[test]
fn a_write_that_fails_leaves_file_and_policy_as_they_are() {
    let (dir, path, mut file) = site("a");
    file.write = |_, _| Err(io::Error::from(io::ErrorKind::StorageFull));
    let error = file.replace(&rule("b"), digest(&rule("a"))).unwrap_err();
    assert!(matches!(&error, ReplaceError::Unwritten { .. }));
    assert!(error.to_string().contains("no storage space"), "{error}");
    assert_eq!(stands(&path, &file), (rule("a"), "a".to_owned()));
    assert_eq!(names(&dir), ["policy.toml"]);
    // The next one may succeed.
    file.write = write;
    file.replace(&rule("b"), digest(&rule("a"))).unwrap();
    assert_eq!(stands(&path, &file), (rule("b"), "b".to_owned()));
}

#[test]
fn a_write_that_fails_at_its_end_is_told_and_file_and_policy_agree() {
    let (_dir, path, mut file) = site("a");
    file.write = |path, text| {
        write(path, text)?;
        Err(io::Error::other("the folder was not synced"))
    };
    let error = file.replace(&rule("b"), digest(&rule("a"))).unwrap_err().to_string();
    assert!(error.contains("the folder was not synced"), "{error}");
    assert_eq!(stands(&path, &file), (rule("b"), "b".to_owned()));
}

#[test]
fn a_text_that_somebody_replaces_at_once_is_not_said_to_be_in_force() {
    let (_dir, path, mut file) = site("a");
    file.write = |path, text| {
        write(path, text)?;
        fs::write(path, rule("by hand"))
    };
    let error = file.replace(&rule("b"), digest(&rule("a"))).unwrap_err();
    assert!(matches!(&error, ReplaceError::Edited { .. }), "{error}");
    assert_eq!(fs::read_to_string(path).unwrap(), rule("by hand"));
}

#[test]
fn a_folder_that_cannot_be_written_to_is_told() {
    let gone = tempfile::tempdir().unwrap().path().join("policy.toml");
    assert_eq!(write(&gone, "").unwrap_err().kind(), io::ErrorKind::NotFound);
    // Nobody makes files in there, root neither.
    assert!(write(Path::new("/proc/version"), "").is_err());
}

#[test]
fn a_read_only_file_and_no_file_are_told_apart() {
    let (_dir, path, file) = site("a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let error = file.replace(&rule("b"), digest(&rule("a"))).unwrap_err();
    assert!(error.to_string().contains("policy.toml\" is read-only"), "{error}");
    assert_eq!(stands(&path, &file), (rule("a"), "a".to_owned()));

    let none = PolicyFile::fixed(Policy::default());
    let status = none.status();
    assert_eq!((status.text, status.digest), (None, None));
    let error = none.replace(&rule("b"), digest("")).unwrap_err();
    assert!(error.to_string().starts_with("this server has no policy file"), "{error}");
}

#[test]
fn a_link_to_a_policy_stays_a_link() {
    let (dir, path, _) = site("a");
    let link = dir.path().join("link.toml");
    symlink(&path, &link).unwrap();
    let file = PolicyFile::open(&link, |_| Ok(RecipeFacts::default())).unwrap();
    file.replace(&rule("b"), digest(&rule("a"))).unwrap();
    assert_eq!(stands(&path, &file), (rule("b"), "b".to_owned()));
    assert!(link.is_symlink());
}

#[test]
fn of_two_who_change_the_same_text_at_once_one_is_refused() {
    let (_dir, path, file) = site("a");
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for name in ["b", "c", "d", "e"] {
            let (file, done) = (&file, &done);
            scope.spawn(move || match file.replace(&rule(name), digest(&rule("a"))) {
                Ok(_) => {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => assert!(matches!(error, ReplaceError::Stale { .. }), "{error}"),
            });
        }
    });
    assert_eq!(done.into_inner(), 1);
    let (text, name) = stands(&path, &file);
    assert_eq!(text, rule(&name));
}

#[test]
fn a_policy_that_is_not_there_at_the_start_is_still_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let opened = PolicyFile::open(dir.path().join("none"), |_| Ok(RecipeFacts::default()));
    assert!(matches!(opened, Err(PolicyError::Read { .. })));
}
