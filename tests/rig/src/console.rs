//! What a machine or a process prints, read as it comes.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much of the text an error shows.
const TAIL_BYTES: usize = 4096;
/// Text beyond this is only in the log file; it stops a looping guest from eating the memory.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Output that is followed live, in memory and in a log file, and matched in order.
///
/// Terminal escapes and carriage returns are left out, so that a pattern is what a person
/// would read.
pub struct Console {
    shared: Arc<Shared>,
    log: PathBuf,
    input: Mutex<Option<Box<dyn Write + Send>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    /// Everything before this has been matched by `wait_for`.
    seen: usize,
    ended: bool,
}

impl Console {
    /// Reads `output` to its end in a thread of its own; what is sent goes to `input`.
    pub fn new(
        output: impl Read + Send + 'static,
        input: Option<Box<dyn Write + Send>>,
        log: &Path,
    ) -> Result<Console> {
        if let Some(dir) = log.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || follow(output, file, &writer))?;
        Ok(Console { shared, log: log.to_owned(), input: Mutex::new(input) })
    }

    /// The file that holds all of the text.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All text so far.
    pub fn text(&self) -> String {
        self.state().text.clone()
    }

    /// Waits for `pattern` after the last match and returns the text up to its end.
    ///
    /// Fails with the last lines of the console when `timeout` passes or the output ends.
    pub fn wait_for(&self, pattern: &str, timeout: Duration) -> Result<String> {
        self.wait_for_any(&[pattern], timeout).map(|(_, text)| text)
    }

    /// Like [`wait_for`](Console::wait_for) for whichever pattern is printed first; also
    /// returns its place in `patterns`.
    pub fn wait_for_any(&self, patterns: &[&str], timeout: Duration) -> Result<(usize, String)> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        loop {
            if let Some((index, end)) = first_match(&state.text[state.seen..], patterns) {
                let start = state.seen;
                state.seen += end;
                return Ok((index, state.text[start..state.seen].to_owned()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = match state.ended {
                    true => "the output ended".to_owned(),
                    false => format!("time is up after {timeout:?}"),
                };
                bail!(
                    "waited for {patterns:?}, but {why}; all of it is in {}, it ends with:\n{}",
                    self.log.display(),
                    tail(&state.text)
                );
            }
            state = match self.shared.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Types `text`.
    pub fn send(&self, text: &str) -> Result<()> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = input.as_mut() else { bail!("this console takes no input") };
        writer.write_all(text.as_bytes()).and_then(|()| writer.flush()).context("type into console")
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        tail(&self.state().text).to_owned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(mut output: impl Read, mut log: File, shared: &Shared) {
    let mut filter = Filter::default();
    let mut raw = [0; 8192];
    loop {
        let count = match output.read(&mut raw) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let plain = filter.push(&raw[..count]);
        // A full disk must not stop the test; the text in memory is what counts.
        let _ = log.write_all(plain.as_bytes());
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.text.len() < TEXT_BYTES_MAX {
            state.text.push_str(&plain);
        }
        state.ended = count == 0;
        shared.changed.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// The pattern that begins first: its index and the end of the match.
fn first_match(text: &str, patterns: &[&str]) -> Option<(usize, usize)> {
    let found = patterns.iter().enumerate().filter_map(|(index, pattern)| {
        text.find(pattern).map(|start| (start, index, start + pattern.len()))
    });
    found.min().map(|(_, index, end)| (index, end))
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Leaves out control characters and ECMA-48 escape sequences, across reads.
#[derive(Default)]
struct Filter {
    state: Escape,
    /// The begun UTF-8 sequence of an earlier read.
    partial: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Escape {
    #[default]
    Text,
    /// After ESC.
    Begun,
    /// In a control sequence, which ends with a byte 0x40 to 0x7e.
    Control,
}

impl Filter {
    fn push(&mut self, raw: &[u8]) -> String {
        let mut kept = std::mem::take(&mut self.partial);
        for &byte in raw {
            self.state = match (self.state, byte) {
                (_, 0x1b) => Escape::Begun,
                (Escape::Begun, b'[') => Escape::Control,
                (Escape::Control, 0x20..=0x3f) => Escape::Control,
                (Escape::Begun, b'(' | b')') => Escape::Begun,
                (Escape::Text, byte) => {
                    if byte == b'\n' || byte == b'\t' || byte >= b' ' {
                        kept.push(byte);
                    }
                    Escape::Text
                }
                (Escape::Begun | Escape::Control, _) => Escape::Text,
            };
        }
        if let Err(error) = std::str::from_utf8(&kept)
            && error.error_len().is_none()
        {
            self.partial = kept.split_off(error.valid_up_to());
        }
        String::from_utf8_lossy(&kept).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn console(dir: &tempfile::TempDir) -> (Console, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Console::new(reader, None, &dir.path().join("log")).unwrap(), writer)
    }

    #[test]
    fn matches_in_order_and_logs() {
        let dir = tempfile::tempdir().unwrap();
        let (console, mut guest) = console(&dir);
        guest.write_all(b"\x1b[2J\x1b[01;01HiPXE init").unwrap();
        guest.write_all(b"ialising\r\nlog").unwrap();
        guest.write_all(b"in: root login: ").unwrap();
        assert_eq!(console.wait_for("iPXE init", LONG).unwrap(), "iPXE init");
        assert_eq!(console.wait_for_any(&["never", "login:"], LONG).unwrap().0, 1);
        assert_eq!(console.wait_for("login:", LONG).unwrap(), " root login:");
        drop(guest);
        let error = console.wait_for("login:", LONG).unwrap_err().to_string();
        assert!(error.contains("the output ended"), "{error}");
        assert!(error.contains("root login:"), "{error}");
        let log = std::fs::read_to_string(console.log()).unwrap();
        assert_eq!(log, "iPXE initialising\nlogin: root login: ");
    }

    #[test]
    fn gives_up_when_time_is_up() {
        let dir = tempfile::tempdir().unwrap();
        let (console, _guest) = console(&dir);
        let error = console.wait_for("x", Duration::from_millis(10)).unwrap_err().to_string();
        assert!(error.contains("time is up"), "{error}");
        assert!(console.send("y").is_err());
    }

    #[test]
    fn filter_works_across_reads() {
        let raw = "a\x1b[1;31mé\x1b(Bb\x1bMc\u{7}\r\n".as_bytes();
        let mut whole = String::new();
        let mut filter = Filter::default();
        for byte in raw {
            whole += &filter.push(&[*byte]);
        }
        assert_eq!(whole, "aébc\n");
    }
}
