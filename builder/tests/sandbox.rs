//! What a recipe's script can do, and what it cannot.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use builder::{BuildError, Outcome, Stage, StepError, ToolError};
use common::{build_in, cache, can_build, chain, recipe};

/// Runs a script as the step of a recipe. Every line it prints is returned; it
/// ends by failing, so that no disk is made.
fn run(name: &str, script: &str) -> Vec<String> {
    let rest = format!("script = '''\n{script}\nexit 42\n'''\n");
    let (result, told) = build_in(&recipe(name, &rest), cache());
    let error = result.unwrap_err();
    let status = match &error {
        BuildError::Step {
            source: StepError::Script(ToolError::Failed { status, .. }), ..
        } => status.code(),
        _ => None,
    };
    assert_eq!(status, Some(42), "{}\n{:#?}", chain(&error), told.log());
    told.log()
}

#[test]
fn a_script_is_root_of_its_tree() {
    if !can_build() {
        return;
    }
    let lines = run(
        "owner",
        "useradd --system worker
         touch /srv/file && chown worker:33 /srv/file && chmod 4750 /srv/file
         stat -c '%U %g %a' /srv/file
         setcap cap_net_bind_service=ep /usr/bin/true 2>/dev/null || echo no setcap
         su -s /bin/sh worker -c 'id -un'
         chroot / true && echo chroot",
    );
    let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|l| *l != "no setcap").collect();
    assert_eq!(lines, ["worker 33 4750", "worker", "chroot"]);
}

#[test]
fn a_script_has_a_known_environment_and_nothing_else() {
    if !can_build() {
        return;
    }
    let lines = run("environment", "env | sort; pwd; umask; hostname; cat /proc/1/comm");
    assert_eq!(
        lines,
        [
            "DEBCONF_NONINTERACTIVE_SEEN=true",
            "DEBIAN_FRONTEND=noninteractive",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PWD=/",
            "SOURCE_DATE_EPOCH=1735689600",
            "TZ=UTC",
            "/",
            "0022",
            "ingot-build",
            "bwrap",
        ]
    );
}

#[test]
fn a_script_reaches_neither_the_network_nor_the_host() {
    if !can_build() {
        return;
    }
    let mark = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '
         ls {mark} 2>/dev/null && echo sees the host\\'s files
         ls /proc | grep -c '^[0-9]'
         ls /dev | tr '\\n' ' '; echo
         kill -0 {pid} 2>/dev/null && echo sees the host\\'s processes
         timeout 5 perl -MIO::Socket::INET -e \
           'print IO::Socket::INET->new(PeerAddr => \"192.0.2.1:80\") ? \"online\\n\" : \"$!\\n\"'
         service cron start 2>/dev/null; sh /usr/sbin/policy-rc.d; echo policy $?",
        mark = mark.path().display(),
        pid = std::process::id(),
    );
    let lines = run("host", &script);
    let processes: u32 = lines[1].parse().unwrap();
    assert!(processes < 10, "{lines:#?}");
    assert_eq!(lines[0], "lo");
    assert!(!lines[2].contains("sd") && !lines[2].contains("vd"), "{lines:#?}");
    assert_eq!(lines[3..], ["Network is unreachable", "policy 101"]);
}

#[test]
fn a_script_cannot_touch_devices_mounts_or_the_kernel() {
    if !can_build() {
        return;
    }
    let lines = run(
        "kernel",
        "try() { if \"$@\" 2>/dev/null; then echo \"did: $*\"; else echo refused; fi; }
         try mknod /srv/disk b 8 0
         try mknod /srv/mem c 1 1
         try mount -t tmpfs none /mnt
         try mount -t proc proc /mnt
         try umount /proc/sys
         try sh -c 'echo x > /proc/sys/kernel/hostname'
         try sh -c 'cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern'
         try sh -c 'echo b > /proc/sysrq-trigger'
         try date -s 2001-01-01
         try hostname other
         try unshare --mount true
         try dmesg --clear",
    );
    assert!(lines.iter().all(|line| line == "refused"), "{lines:#?}");
    assert_eq!(lines.len(), 12);
}

#[test]
fn a_failing_script_is_shown_with_its_last_lines() {
    if !can_build() {
        return;
    }
    let rest = "[[step]]\nname = \"tuning\"\nscript = 'echo all is well; ls /no-such-file'\n";
    let (result, told) = build_in(&recipe("failing", rest), cache());
    let text = chain(&result.unwrap_err());
    assert!(text.starts_with("step \"tuning\" failed: its script failed: script ended with exit status: 2; its last lines:\n    all is well\n    ls: cannot access"), "{text}");
    let last = told.outcomes().pop();
    assert_eq!(last, Some((Stage::Step("tuning".to_owned()), Outcome::Failed)));
}

#[test]
fn a_link_in_the_tree_leads_nowhere_else() {
    if !can_build() {
        return;
    }
    // The file of the second step would land on the host if links were followed there.
    let host = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let rest = format!(
        "script = 'mkdir -p {host} && ln -s {host} /etc/away'\n[[step]]\nname = \"file\"\n\
         script = 'cat {host}/file; exit 42'\n[step.files]\n\"etc/away/file\" = {{ text = \"in the tree\" }}\n",
        host = host.path().display()
    );
    let (result, told) = build_in(&recipe("link", &rest), cache());
    assert!(result.is_err());
    assert_eq!(told.log(), ["in the tree"]);
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 0);
}

#[test]
fn a_tree_without_a_kernel_is_refused() {
    if !can_build() {
        return;
    }
    let rest = "script = 'rm -f /vmlinuz*'\n";
    let (result, _) = build_in(&recipe("no-kernel", rest), cache());
    let text = chain(&result.unwrap_err());
    assert!(text.contains("add a kernel package to [base]"), "{text}");
}
