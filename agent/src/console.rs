//! What people in front of the machine see, each line on every console, and where they type.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Consoles that get every line.
#[derive(Debug, Default)]
pub struct Console {
    sinks: Mutex<Vec<File>>,
}

/// A console that takes nothing for this long loses the line: a serial port
/// with flow control and nobody behind it must not stop an installation.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

impl Console {
    /// Opens the consoles that the kernel uses, and the usual two besides.
    pub fn open(sys: &Path, dev: &Path) -> Console {
        let active = std::fs::read_to_string(sys.join("class/tty/console/active"));
        let mut names: Vec<String> =
            active.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        for usual in ["tty0", "ttyS0"] {
            if !names.iter().any(|name| name == usual) {
                names.push(usual.to_owned());
            }
        }
        let open = |name: &String| {
            let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
            let open = |read| {
                let mut options = OpenOptions::new();
                options.read(read).write(true).custom_flags(flags).open(dev.join(name))
            };
            open(true).or_else(|_| open(false)).ok()
        };
        let mut sinks: Vec<File> = names.iter().filter_map(open).collect();
        if sinks.is_empty() {
            sinks.extend(open(&"console".to_owned()));
        }
        Console::to(sinks)
    }

    /// Writes to these files instead.
    pub fn to(sinks: Vec<File>) -> Console {
        Console { sinks: Mutex::new(sinks) }
    }

    /// Shows a line, or several parted by line ends.
    pub fn say(&self, text: &str) {
        let mut bytes = Vec::with_capacity(text.len() + 2);
        for line in text.lines() {
            bytes.extend(printable(line).into_bytes());
            bytes.extend(b"\r\n");
        }
        self.sinks().retain(|sink| write_some(sink, &bytes));
    }

    /// The consoles to read from, without keeping others from writing.
    pub fn inputs(&self) -> Vec<File> {
        self.sinks().iter().filter_map(|sink| sink.try_clone().ok()).collect()
    }

    fn sinks(&self) -> MutexGuard<'_, Vec<File>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Text from outside may hold bytes that reprogram a terminal.
pub fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// False where the console is gone for good.
fn write_some(sink: &File, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(sink, bytes) {
            Ok(written) => bytes = &bytes[written.min(bytes.len())..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut wait = [PollFd::new(sink, PollFlags::OUT)];
                if !matches!(poll(&mut wait, Some(&PATIENCE)), Ok(ready) if ready > 0) {
                    return true;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn every_console_gets_every_line_and_nothing_that_moves_the_cursor() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("sys/class/tty/console")).unwrap();
        std::fs::write(folder.path().join("sys/class/tty/console/active"), "ttyS1 tty0\n").unwrap();
        for name in ["tty0", "ttyS1", "console"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let console = Console::open(&folder.path().join("sys"), folder.path());
        console.say("one\x1b[2J\ntwo");
        for name in ["tty0", "ttyS1"] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(text, "one [2J\r\ntwo\r\n", "{name}");
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("console")).unwrap(), "");
    }

    #[test]
    fn a_console_that_nobody_reads_does_not_stop_anything() {
        let (mut read, write) = std::io::pipe().unwrap();
        let sink = File::from(std::os::fd::OwnedFd::from(write));
        rustix::io::ioctl_fionbio(&sink, true).unwrap();
        let console = Console::to(vec![sink]);
        for _ in 0..3 {
            console.say(&"x".repeat(100_000));
        }
        drop(console);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert!(text.starts_with('x'));
    }
}
