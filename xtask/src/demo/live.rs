//! A log file shown on the terminal while it grows.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the file is looked at: often enough to feel live.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Shows a file's lines, each behind a name, until it is dropped.
pub struct Live {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Starts with what is in the file already.
    pub fn follow(name: &'static str, path: &Path) -> Live {
        let done = Arc::new(AtomicBool::new(false));
        let (seen, path) = (done.clone(), path.to_owned());
        let thread = std::thread::spawn(move || show_lines(name, path, &seen));
        Live { done, thread: Some(thread) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A reader that panicked has lost only its own output.
            let _ = thread.join();
        }
    }
}

fn show_lines(name: &str, path: PathBuf, done: &AtomicBool) {
    let Ok(mut file) = std::fs::File::open(&path) else { return };
    let mut pending = String::new();
    loop {
        let last_look = done.load(Ordering::Relaxed);
        let mut bytes = Vec::new();
        if file.read_to_end(&mut bytes).is_err() {
            return;
        }
        pending.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = pending.find('\n') {
            let line: String = pending.drain(..=end).collect();
            show(name, line.trim_end());
        }
        if last_look {
            show(name, pending.trim_end());
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn show(name: &str, line: &str) {
    if !line.is_empty() {
        // The terminal may be gone; the demo goes on.
        let _ = writeln!(std::io::stdout(), "{name} | {line}");
    }
}
