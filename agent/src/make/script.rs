//! Running a recipe's script with an installed system as its root.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// Where the script is, seen from inside.
const SCRIPT: &str = "/run/ingot/script";
/// What every script has, before what the order gives it.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
];
/// Longest line that is passed on whole, in bytes; longer ones come in pieces.
const LINE_BYTES_MAX: u64 = 800;
/// Last lines that stand in a failure, and most bytes of them: fewer than a failure may have.
const LINES_KEPT: usize = 20;
const KEPT_BYTES_MAX: usize = 4000;
/// Lines that may wait to be said.
const LINES_WAITING: usize = 64;
/// How often it is looked whether the script has ended.
const LOOK: Duration = Duration::from_millis(50);

/// What is run.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    /// Its text: run as a program where it begins with `#!`, else by `/bin/sh -eu`.
    pub text: &'a str,
    /// Its environment beside what every script has.
    pub environment: BTreeMap<String, String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why a script came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It could not be put in its place.
    #[error("the script cannot be put to {}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not begin.
    #[error("the script cannot be run: is its interpreter in the base image?")]
    Spawn(#[source] io::Error),
    /// It cannot be waited for.
    #[error("waiting for the script failed")]
    Wait(#[source] io::Error),
    /// It did not do what it should.
    #[error("the script ended with {status}; its last lines: {lines}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        lines: String,
    },
    /// It took too long.
    #[error(
        "the script was stopped after {secs} s: give it more time in the recipe (timeout) or find \
         what it waits for; its last lines: {lines}"
    )]
    Late {
        /// How long it may take.
        secs: u64,
        /// What it said last.
        lines: String,
    },
}

/// Runs a script with a folder as its root. `say` gets every line of its output.
/// Nothing that it started is left when this comes back.
pub fn run(root: &Path, script: &Script<'_>, mut say: impl FnMut(&str)) -> Result<(), ScriptError> {
    place(root, script.text)?;
    let (output, child) = spawn(root, script)?;
    let (lines_in, lines) = sync_channel(LINES_WAITING);
    thread::scope(|scope| {
        scope.spawn(move || read_lines(output, &lines_in));
        let mut last = Last::default();
        let ended = watch(child, script.timeout, &lines, &mut |line| {
            say(&line);
            last.push(line);
        });
        let lines = || last.text();
        match ended.map_err(ScriptError::Wait)? {
            Ended::Itself(status) if status.success() => Ok(()),
            Ended::Itself(status) => Err(ScriptError::Failed { status, lines: lines() }),
            Ended::Late => {
                Err(ScriptError::Late { secs: script.timeout.as_secs(), lines: lines() })
            }
        }
    })
}

fn place(root: &Path, text: &str) -> Result<(), ScriptError> {
    let path = root.join(SCRIPT.trim_start_matches('/'));
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
    };
    write().map_err(|source| ScriptError::Place { path, source })
}

/// Starts it as the first process of a process namespace: when that ends, the
/// kernel ends all others.
fn spawn(root: &Path, script: &Script<'_>) -> Result<(PipeReader, Child), ScriptError> {
    let mut command = match script.text.starts_with("#!") {
        true => Command::new(SCRIPT),
        false => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-eu", SCRIPT]);
            shell
        }
    };
    let start = || {
        let (output, into) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(into.try_clone()?).stderr(into);
        command.env_clear().envs(ENVIRONMENT).envs(&script.environment);
        sys::confine(&mut command, root)?;
        // In a thread of its own: what it starts later is to be in our namespace again.
        let spawned = thread::scope(|scope| {
            let spawning = scope.spawn(|| {
                sys::unshare_processes()?;
                command.spawn()
            });
            spawning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // Our ends of the pipe: it ends with whoever writes to it.
        drop(command);
        Ok((output, spawned?))
    };
    start().map_err(ScriptError::Spawn)
}

fn read_lines(output: PipeReader, lines: &SyncSender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        let read = output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let text = String::from_utf8_lossy(&line);
        // A bar that draws itself anew has its last state behind the last return.
        let text = text.trim_end_matches(['\n', '\r']);
        let text = text.rsplit('\r').next().unwrap_or(text).to_owned();
        if !matches!(read, Ok(1..)) || lines.send(text).is_err() {
            return;
        }
    }
}

enum Ended {
    Itself(ExitStatus),
    Late,
}

/// Waits for the end of a script, or brings it about.
fn watch(
    mut child: Child,
    timeout: Duration,
    lines: &Receiver<String>,
    say: &mut dyn FnMut(String),
) -> io::Result<Ended> {
    let started = Instant::now();
    let ended = loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => say(line),
            Err(RecvTimeoutError::Timeout) => {}
            // It closed its output and goes on.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
        }
        if let Some(status) = child.try_wait()? {
            break Ended::Itself(status);
        }
        if started.elapsed() >= timeout {
            child.kill()?;
            child.wait()?;
            break Ended::Late;
        }
    };
    // All that could write is gone.
    lines.iter().for_each(say);
    Ok(ended)
}

/// The last lines of an output.
#[derive(Default)]
struct Last(VecDeque<String>);

impl Last {
    fn push(&mut self, line: String) {
        self.0.push_back(line);
        let bytes = |lines: &VecDeque<String>| lines.iter().map(String::len).sum::<usize>();
        while self.0.len() > LINES_KEPT || bytes(&self.0) > KEPT_BYTES_MAX {
            self.0.pop_front();
        }
    }

    fn text(&self) -> String {
        match self.0.is_empty() {
            true => "(it said nothing)".to_owned(),
            false => self.0.iter().map(String::as_str).collect::<Vec<_>>().join(" / "),
        }
    }
}
