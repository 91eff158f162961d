//! What must hold before an image is handed on: the recipe's script agrees
//! with the tree, and the disk boots.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cache::{CacheError, at};
use crate::recipe::{Check, Firmware};
use crate::tool::{self, Log, ToolError};

const QEMU: &str = "qemu-system-x86_64";
/// UEFI firmware and the template of its variables, from Debian's ovmf.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// How many of the last lines on the console an error shows.
const TAIL_LINES: usize = 25;
/// Longest unfinished line that is kept, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// Why an image did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Its files.
    #[error(transparent)]
    File(#[from] CacheError),
    /// The recipe's script says no.
    #[error("the check script of the recipe failed")]
    Script(#[source] ToolError),
    /// QEMU did not start.
    #[error("cannot start {QEMU}")]
    Start(#[source] io::Error),
    /// The awaited text did not come.
    #[error(
        "the disk does not boot by {}: {expect:?} did not appear on the serial console within \
         {secs} s; its last lines:\n    {}",
        firmware.name(), tail.join("\n    ")
    )]
    Silent {
        /// How it was booted.
        firmware: Firmware,
        /// The awaited text.
        expect: String,
        /// How long it was waited for.
        secs: u64,
        /// The last lines on the console.
        tail: Vec<String>,
    },
    /// The machine ended by itself.
    #[error(
        "the disk does not boot by {}: the machine stopped before {expect:?} appeared on the \
         serial console; its last lines:\n    {}",
        firmware.name(), tail.join("\n    ")
    )]
    Stopped {
        /// How it was booted.
        firmware: Firmware,
        /// The awaited text.
        expect: String,
        /// The last lines on the console.
        tail: Vec<String>,
    },
}

/// Boots the disk `image` in an emulated machine until the awaited text appears.
/// The image stays as it is.
pub(crate) fn boot(
    work: &Path,
    image: &Path,
    firmware: Firmware,
    check: &Check,
    log: Log<'_>,
) -> Result<(), CheckError> {
    let (_machine, console) = start(work, image, firmware)?;
    let deadline = Instant::now() + Duration::from_secs(check.timeout_secs);
    let (sender, lines) = mpsc::channel();
    // Ends with the console, which ends with the machine.
    thread::spawn(move || read_lines(console, &sender));
    let mut tail = Vec::new();
    let expect = check.expect.clone();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(Console::Line(line)) => {
                let found = line.contains(&expect);
                log(&line);
                if found {
                    return Ok(());
                }
                if tail.len() == TAIL_LINES {
                    tail.remove(0);
                }
                tail.push(line);
            }
            Ok(Console::Partial(text)) if text.contains(&expect) => {
                log(&text);
                return Ok(());
            }
            Ok(Console::Partial(_)) => (),
            Err(RecvTimeoutError::Timeout) => {
                return Err(CheckError::Silent {
                    firmware,
                    expect,
                    secs: check.timeout_secs,
                    tail,
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CheckError::Stopped { firmware, expect, tail });
            }
        }
    }
}

/// Emulated throughout: a host that offers KVM may still be unable to run a guest. With one
/// processor: with more, QEMU 7.2 now and then misses that Linux patched its own code, and
/// the guest hangs.
fn start(
    work: &Path,
    image: &Path,
    firmware: Firmware,
) -> Result<(Machine, io::PipeReader), CheckError> {
    let mut qemu = tool::command(QEMU, 0);
    qemu.env("TMPDIR", work)
        .args(["-machine", "q35", "-accel", "tcg", "-m", "1024", "-smp", "1"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none"])
        .args(["-no-reboot", "-snapshot", "-drive"])
        .arg(format!("file={},format=raw,if=virtio", escaped(image)));
    if firmware == Firmware::Uefi {
        let vars: PathBuf = work.join("ovmf-vars.fd");
        fs::copy(OVMF_VARS, &vars).map_err(at("copy OVMF's variables to", &vars))?;
        qemu.arg("-drive")
            .arg(format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"))
            .arg("-drive")
            .arg(format!("if=pflash,unit=1,format=raw,file={}", escaped(&vars)));
    }
    // The command is dropped here, and with it this side's end for writing.
    let (console, writer) = io::pipe().map_err(CheckError::Start)?;
    let stderr = writer.try_clone().map_err(CheckError::Start)?;
    let machine = qemu.stdout(writer).stderr(stderr).spawn().map_err(CheckError::Start)?;
    Ok((Machine(machine), console))
}

/// A comma ends an option of QEMU unless it is doubled.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A running machine; ends when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

enum Console {
    /// A whole line.
    Line(String),
    /// A line as far as it goes: a prompt has no end.
    Partial(String),
}

fn read_lines(console: impl io::Read, sender: &mpsc::Sender<Console>) {
    let mut console = BufReader::new(console);
    let mut line = Vec::new();
    while let Ok(bytes) = console.fill_buf() {
        let read = bytes.len();
        if read == 0 {
            return;
        }
        for &byte in bytes {
            if byte == b'\n' || line.len() == LINE_BYTES_MAX {
                let text = plain(&line);
                line.clear();
                if !text.is_empty() && sender.send(Console::Line(text)).is_err() {
                    return;
                }
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
        console.consume(read);
        if !line.is_empty() && sender.send(Console::Partial(plain(&line))).is_err() {
            return;
        }
    }
}

/// What a person would see: no control characters, no colours.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' && chars.next_if_eq(&'[').is_some() {
            while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read_as_lines_and_prompts_without_colours() {
        let (sender, received) = mpsc::channel();
        let bytes = "\x1b[2J\x1b[01;01HGRUB\r\n[\x1b[0;32m  OK  \x1b[0m] up\n\nhost login: ";
        read_lines(bytes.as_bytes(), &sender);
        drop(sender);
        let seen: Vec<String> = received
            .iter()
            .map(|console| match console {
                Console::Line(text) => text,
                Console::Partial(text) => format!("...{text}"),
            })
            .collect();
        assert_eq!(seen, ["GRUB", "[  OK  ] up", "...host login:"]);
    }

    #[test]
    fn endless_output_without_lines_is_bounded() {
        let (sender, received) = mpsc::channel();
        read_lines([b'x'; 100_000].as_slice(), &sender);
        drop(sender);
        assert!(received.iter().all(|console| match console {
            Console::Line(text) | Console::Partial(text) => text.len() <= LINE_BYTES_MAX,
        }));
    }
}
