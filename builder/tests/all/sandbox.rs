//! What a recipe's script can do, and what it cannot.

use crate::common::{build_in, build_with, cache, can_build, recipe};
use builder::{BuildError, Options, Outcome, Stage, StepError, ToolError};
use wire::FactValue;

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
    assert_eq!(status, Some(42), "{}\n{:#?}", wire::chain(&error), told.log());
    told.log()
}

#[test]
fn a_script_is_root_of_its_tree_and_has_a_known_environment() {
    if !can_build() {
        return;
    }
    let lines = run(
        "inside",
        "useradd --system worker
         touch /srv/file && chown worker:33 /srv/file && chmod 4750 /srv/file
         stat -c '%U %g %a' /srv/file
         su -s /bin/sh worker -c 'id -un'
         chroot / true && echo chroot
         setcap cap_net_bind_service=ep /srv/file && getcap /srv/file
         sh /usr/sbin/policy-rc.d || echo policy $?
         pwd; umask; hostname; cat /proc/1/comm
         env | sort",
    );
    let expected = "worker 33 4750|worker|chroot|/srv/file cap_net_bind_service=ep|policy 101\
        |/|0022|ingot-build|bwrap\
        |DEBCONF_NONINTERACTIVE_SEEN=true|DEBIAN_FRONTEND=noninteractive|HOME=/root\
        |LC_ALL=C.UTF-8|PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\
        |PWD=/|SOURCE_DATE_EPOCH=1735689600|TZ=UTC";
    assert_eq!(lines, expected.split('|').collect::<Vec<_>>());
}

#[test]
fn a_script_reaches_neither_network_nor_host_nor_devices_nor_the_kernel() {
    if !can_build() {
        return;
    }
    let mark = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '
         perl -MIO::Socket::INET -e \
           'print IO::Socket::INET->new(PeerAddr => \"192.0.2.1:80\") ? \"online\\n\" : \"$!\\n\"'
         ls /dev | grep -cE '^(sd|vd|nvme|loop|mem|kmsg|kvm)' || true
         try() {{ if \"$@\" >/dev/null 2>&1; then echo \"did: $*\"; else echo refused; fi; }}
         try ls {mark}
         try ls /proc/{pid}
         try mknod /srv/disk b 8 0
         try mknod /srv/mem c 1 1
         try mount -t tmpfs none /mnt
         try mount -t proc proc /mnt
         try mount -o remount,rw /proc
         try umount /proc
         try sh -c 'cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern'
         try sh -c 'echo ? > /proc/sysrq-trigger'
         try date -s 2001-01-01
         try hostname other
         try dmesg --clear
         try unshare --mount true
         try unshare -Urm mount -o remount,rw /proc
         try unshare -Urmpf mount -t proc proc /mnt
         try unshare -Urmn mount -t sysfs none /mnt",
        mark = mark.path().display(),
        pid = std::process::id(),
    );
    let lines = run("outside", &script);
    assert_eq!(lines[..3], ["lo", "Network is unreachable", "0"]);
    assert!(lines[3..].iter().all(|line| line == "refused"), "{lines:#?}");
    assert_eq!(lines[3..].len(), 17);
}

#[test]
fn a_failing_script_is_shown_with_its_last_lines() {
    if !can_build() {
        return;
    }
    let rest = "[[step]]\nname = \"tuning\"\nscript = 'echo all is well; ls /no-such-file'\n";
    let (result, told) = build_in(&recipe("failing", rest), cache());
    let text = wire::chain(&result.unwrap_err());
    assert!(text.starts_with("step \"tuning\" failed: its script failed: script ended with exit status: 2; its last lines:\n    all is well\n    ls: cannot access"), "{text}");
    let last = told.outcomes().pop();
    assert_eq!(last, Some((Stage::Step("tuning".to_owned()), Outcome::Failed)));
}

#[test]
fn a_link_in_the_tree_leads_nowhere_else() {
    if !can_build() {
        return;
    }
    // The file of the second step would land on the host if links were followed there. Not
    // below /tmp, which is not the tree's own in the sandbox.
    let host = tempfile::tempdir_in("/srv").unwrap();
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
    let text = wire::chain(&result.unwrap_err());
    assert!(text.contains("add a kernel package to [base]"), "{text}");
}

#[test]
fn a_script_is_given_the_facts_that_the_recipe_uses_and_it_names() {
    if !can_build() {
        return;
    }
    let text = "uses = [\"label.role\", \"disk.size\", \"cpu.arch\", \"cpu.model\"]\n\
                script = '''\n\
                echo \"$INGOT_LABEL_ROLE|$INGOT_DISK_SIZE|${INGOT_CPU_MODEL:-none}\"\n\
                env | grep -c ^INGOT_\nexit 42\n'''\n";
    let recipe = recipe("facts", text);
    let values = |values: &[u64]| values.iter().map(|n| FactValue::Number(*n)).collect();
    let word = |text: &str| FactValue::Text(text.to_owned());
    let facts = [
        ("label.role", word("a \"quoted\" role")),
        ("disk.size", FactValue::List(values(&[1, 2]))),
        ("cpu.arch", word("x86_64")),
        ("label.other", word("not used")),
    ];
    let facts = facts.map(|(path, value)| (path.to_owned(), value)).into();
    let (result, told) = build_with(&recipe, &Options { facts, ..Options::new(cache()) });
    assert!(result.is_err());
    assert_eq!(told.log(), ["a \"quoted\" role|1", "2|none", "2"]);
}
