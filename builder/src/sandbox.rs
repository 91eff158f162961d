//! Where everything runs that a recipe or a package brings: in the tree as its
//! root, with nothing of the host but the kernel.
//!
//! bubblewrap makes new user, mount, pid, network, ipc and uts namespaces. The
//! user namespace maps the first 65 536 ids onto themselves, so that files keep
//! their owners in the tree; being the host's root in name is harmless, as no
//! capability reaches outside the namespace, devices cannot be opened, and
//! `/proc`, where the kernel asks only for the owner's id, is read-only. bubblewrap itself maps only one id, so it waits
//! until we have written the map (`--userns-block-fd`).

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::EPOCH;
use crate::tool::{self, Log, ToolError};

/// Hands bubblewrap its two extra descriptors, which a child process cannot
/// otherwise be given safely: 3 is where it tells its child's pid (our read end
/// is its standard output), 4 is where it waits (our write end is its standard
/// input). What runs inside gets neither.
const LAUNCH: &str = "exec bwrap --info-fd 3 --userns-block-fd 4 \"$@\" 3>&1 4<&0 0</dev/null 1>&2";

/// What a package's scripts need, and no more: no mounts, devices, modules,
/// clocks or raw sockets.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The ids that exist inside: all that Debian gives out, and `nobody`.
const ID_MAP: &str = "0 0 65536\n";
/// Longest answer of bubblewrap about its child, in bytes.
const INFO_BYTES_MAX: u64 = 4096;

/// Whether what runs may change the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may.
    Write,
    /// It may not.
    Read,
}

/// One program to run in a tree.
#[derive(Debug)]
pub(crate) struct Sandbox<'a> {
    root: &'a Path,
    access: Access,
    binds: Vec<(&'a Path, &'static str)>,
    told: Vec<(&'a str, &'a str)>,
}

impl<'a> Sandbox<'a> {
    /// In the tree at `root`.
    pub fn new(root: &'a Path, access: Access) -> Sandbox<'a> {
        Sandbox { root, access, binds: Vec::new(), told: Vec::new() }
    }

    /// Shows a file or folder of the host, read-only, at a path below `/run`.
    pub fn show(mut self, host: &'a Path, inside: &'static str) -> Sandbox<'a> {
        self.binds.push((host, inside));
        self
    }

    /// Sets environment variables beside those that are always there.
    pub fn tell(self, told: Vec<(&'a str, &'a str)>) -> Sandbox<'a> {
        Sandbox { told, ..self }
    }

    /// Runs `command` inside, with everything that it prints as log lines.
    /// `name` stands for it in an error.
    pub fn run(&self, name: &str, command: &[&str], log: Log<'_>) -> Result<(), ToolError> {
        let mut launch = tool::command("sh", EPOCH);
        launch.args(["-c", LAUNCH, "sh"]).args(NAMESPACES);
        launch.arg(match self.access {
            Access::Write => "--bind",
            Access::Read => "--ro-bind",
        });
        launch.arg(self.root).arg("/").args(MOUNTS);
        for (host, inside) in &self.binds {
            launch.arg("--ro-bind").arg(host).arg(inside);
        }
        launch.args(["--cap-drop", "ALL"]);
        launch.args(CAPABILITIES.iter().flat_map(|capability| ["--cap-add", capability]));
        launch.arg("--clearenv");
        let epoch = EPOCH.to_string();
        let fixed = ENVIRONMENT.into_iter().chain([("SOURCE_DATE_EPOCH", epoch.as_str())]);
        for (key, value) in fixed.chain(self.told.iter().copied()) {
            launch.args(["--setenv", key, value]);
        }
        launch.arg("--").args(command);
        let mut child = launch
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| tool::start("bwrap", source))?;
        let mapped = map_ids(&mut child);
        let tail = child.stderr.take().map(|err| tool::lines(err, log)).unwrap_or_default();
        // bubblewrap's own words come before what our side saw of its failure.
        tool::finish(child, name.to_owned(), tail)?;
        mapped.map_err(|source| tool::start("bwrap", source))
    }
}

const NAMESPACES: [&str; 10] = [
    "--unshare-user",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--hostname",
    "ingot-build",
    "--die-with-parent",
    "--new-session",
];

const MOUNTS: [&str; 14] = [
    "--proc",
    "/proc",
    "--remount-ro",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/run",
    "--perms",
    "1777",
    "--tmpfs",
    "/tmp",
    "--chdir",
    "/",
];

const ENVIRONMENT: [(&str, &str); 6] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
];

/// Reads from bubblewrap which process waits in the new user namespace, gives
/// the namespace its ids and lets the process go on.
fn map_ids(child: &mut Child) -> io::Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Info {
        child_pid: u32,
    }

    let (Some(info), Some(mut go)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(io::Error::other("no pipe"));
    };
    // The stream stays open as long as bubblewrap runs: one object is read, not all.
    let mut objects =
        serde_json::Deserializer::from_reader(BufReader::new(info.take(INFO_BYTES_MAX)))
            .into_iter::<Info>();
    let Some(Ok(info)) = objects.next() else {
        return Err(io::Error::other("bubblewrap did not tell the pid of its child"));
    };
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", info.child_pid), ID_MAP)?;
    }
    go.write_all(b"1")
}
