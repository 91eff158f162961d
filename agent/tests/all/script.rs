//! Scripts in a folder as their root. Needs root: chroot(2), unshare(2), mount(2).

mod as_root {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use crate::support::system::tree;
    use agent::make::script::{Script, ScriptError, run};

    /// Runs a script; gives the result and the lines of its output.
    fn script(root: &Path, text: &str, secs: u64) -> (Result<(), ScriptError>, Vec<String>) {
        let environment = BTreeMap::from([("INGOT_FACT_X".to_owned(), "a b".to_owned())]);
        let script = Script { text, environment, timeout: Duration::from_secs(secs) };
        let mut lines = Vec::new();
        let result = run(root, &script, |line| lines.push(line.to_owned()));
        (result, lines)
    }

    /// Processes that have a folder as their root.
    fn left_in(root: &Path) -> usize {
        let root = root.canonicalize().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|entry| fs::read_link(entry.path().join("root")).ok() == Some(root.clone()))
            .count()
    }

    #[test]
    fn sees_the_folder_as_its_root_and_its_environment_and_every_line_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        tree(root);
        let text = "echo one; echo two >&2; printf 'half\\rwhole\\n'; echo \"$INGOT_FACT_X $HOME $LC_ALL\"\n\
                    echo \"${PATH%%:*}\"; echo $$; cat /etc/mine; echo made > /etc/made; printf end";
        fs::write(root.join("etc/mine"), "of the image\n").unwrap();
        let (result, lines) = script(root, text, 60);
        result.unwrap();
        let expected = [
            "one",
            "two",
            "whole",
            "a b /root C.UTF-8",
            "/usr/local/sbin",
            "1",
            "of the image",
            "end",
        ];
        assert_eq!(lines, expected);
        assert_eq!(fs::read_to_string(root.join("etc/made")).unwrap(), "made\n");
        // As the interpreter that it names.
        let (result, lines) = script(root, "#!/bin/cat\nsaid\n", 60);
        result.unwrap();
        assert_eq!(lines, ["#!/bin/cat", "said"]);
    }

    #[test]
    fn a_failure_has_its_status_and_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        let text = "i=0; while test $i -lt 30; do echo line $i; i=$((i+1)); done; exit 3";
        let (result, lines) = script(folder.path(), text, 60);
        assert_eq!(lines.len(), 30);
        let text = result.unwrap_err().to_string();
        assert!(text.contains("exit status: 3") && text.contains("line 10 / line 11"), "{text}");
        assert!(text.ends_with("line 29") && !text.contains("line 9 "), "{text}");
        // Without `set -e` of its own: a command that fails ends it.
        let (result, _) = script(folder.path(), "test -e /missing; echo not reached", 60);
        assert!(matches!(result, Err(ScriptError::Failed { .. })), "{result:?}");
        let (result, _) = script(folder.path(), "#!/bin/missing\n", 60);
        assert!(matches!(result, Err(ScriptError::Spawn(_))), "{result:?}");
        // A long line comes in pieces.
        let long = format!("echo {}", "x".repeat(2000));
        let (_, lines) = script(folder.path(), &long, 60);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [800, 800, 400]);
        // Of many of these the failure keeps the last, and no more than it has room for.
        let (result, _) = script(folder.path(), &format!("{long}\n{long}\n{long}\nexit 1"), 60);
        let text = result.unwrap_err().to_string();
        assert!((3000..4200).contains(&text.len()) && text.ends_with('x'), "{}", text.len());
    }

    /// Unmounts what a test that fails leaves.
    struct Clean<'a>(&'a Path);

    impl Drop for Clean<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).stderr(Stdio::null()).status();
        }
    }

    #[test]
    fn what_it_mounts_is_gone_with_it_and_seen_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        tree(&root);
        let (at, seen) = (root.join("srv"), root.join("etc/seen"));
        let _clean = Clean(&at);
        let text = "mount -t tmpfs left /srv; echo inside > /srv/file; cat /srv/file\n\
                    while test ! -e /etc/seen; do sleep 0.1; done; exit ";
        for end in ["0", "3"] {
            let environment = BTreeMap::new();
            let text = format!("{text}{end}");
            let script = Script { text: &text, environment, timeout: Duration::from_secs(60) };
            let result = run(&root, &script, |line| {
                assert_eq!(line, "inside");
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
                assert!(!mounts.contains(&root.display().to_string()), "{mounts}");
                fs::write(&seen, "").unwrap();
            });
            assert_eq!(result.is_ok(), end == "0", "{result:?}");
            assert!(seen.exists(), "it said what it mounted");
            fs::remove_file(&seen).unwrap();
            assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(&root.display().to_string()), "{mounts}");
        }
    }

    #[test]
    fn nothing_that_it_started_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        tree(root);
        let daemon = "setsid sh -c 'while true; do sleep 1; done' > /dev/null 2>&1 &\n";
        fs::write(root.join("dev/null"), "").unwrap();
        script(root, &format!("{daemon} exit 0"), 60).0.unwrap();
        assert_eq!(left_in(root), 0);
        // Output that stays open, and one that never ends, hold nothing up.
        for text in
            ["sleep 1000", "while true; do echo more; done", "exec > /dev/null 2>&1; sleep 1000"]
        {
            let (result, _) = script(root, &format!("{daemon} {text}"), 1);
            match result {
                Err(ScriptError::Late { secs: 1, .. }) => {}
                other => panic!("{text}: {other:?}"),
            }
            assert_eq!(left_in(root), 0, "{text}");
        }
    }
}
