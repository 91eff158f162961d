//! A program under test: its output is kept, and it never outlives its owner.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::Console;

const POLL: Duration = Duration::from_millis(20);

/// A spawned process with captured output; killed and reaped on drop.
pub struct Process {
    child: Mutex<Child>,
    console: Console,
    what: String,
}

impl Process {
    /// Starts `command` with standard output and error going to its console and to `log`,
    /// and standard input coming from the console.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Process> {
        let what = format!("{:?}", command.get_program());
        let (output, stdout) = std::io::pipe().context("make a pipe")?;
        let stderr = stdout.try_clone().context("make a pipe")?;
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        // The command holds the writing ends; the console would never see the end of them.
        drop(command);
        let input =
            child.stdin.take().map(|stdin| Box::new(stdin) as Box<dyn std::io::Write + Send>);
        let child = Mutex::new(child);
        match Console::new(output, input, log) {
            Ok(console) => Ok(Process { child, console, what }),
            Err(error) => {
                end(&child);
                Err(error)
            }
        }
    }

    /// What it prints, and where to type.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// The exit status, if it has ended.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.child().try_wait().with_context(|| format!("ask after {}", self.what))
    }

    /// Waits until it ends by itself.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {timeout:?}:\n{}", self.what, self.console.tail());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// Ends it at once (SIGKILL), as a power cut would.
    pub fn kill(&self) {
        end(&self.child);
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        // Holding the lock keeps the child unreaped, so the pid cannot belong to another.
        let mut child = self.child();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has no pid", self.what))?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.what))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // Both fail only if it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, dir: &tempfile::TempDir) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command, &dir.path().join("log")).unwrap()
    }

    #[test]
    fn talks_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let echo = shell("echo ready >&2; read line; echo got $line; exit 3", &dir);
        echo.console().wait_for("ready", LONG).unwrap();
        echo.console().send("tea\n").unwrap();
        echo.console().wait_for("got tea", LONG).unwrap();
        assert_eq!(echo.wait(LONG).unwrap().code(), Some(3));
    }

    #[test]
    fn terminates() {
        let dir = tempfile::tempdir().unwrap();
        let polite =
            shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", &dir);
        polite.console().wait_for("up", LONG).unwrap();
        assert!(polite.terminate(LONG).unwrap().success());
        polite.console().wait_for("bye", LONG).unwrap();
    }

    #[test]
    fn a_panic_leaves_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let pid = std::thread::spawn({
            let log = dir.path().join("log");
            move || {
                let mut command = Command::new("sleep");
                command.arg("1000");
                let process = Process::spawn(command, &log).unwrap();
                std::panic::panic_any(process.pid());
            }
        });
        let pid = *pid.join().unwrap_err().downcast::<u32>().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
