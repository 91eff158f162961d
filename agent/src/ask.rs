//! Asking the person in front of the machine, who need not be there.

use std::fs::File;
use std::time::Duration;

use rustix::io::{Errno, read};
use rustix::termios::{QueueSelector, tcflush};
use store_remote::Timing;
use wire::AskOrder;

use crate::console::Console;

/// How often the consoles are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Longest line that is taken in, in bytes.
const LINE_BYTES_MAX: usize = 1024;
/// Least time that a question stands.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// Shows a question on every console and takes the first answer from any of them; none
/// where nobody gave one in time. What was typed before is no answer.
pub fn ask(console: &Console, question: &AskOrder, timing: &dyn Timing) -> Option<String> {
    let mut inputs: Vec<Input> = console.inputs().into_iter().map(Input::new).collect();
    let wait = Duration::from_secs(question.wait_secs.into()).max(WAIT_MIN);
    console.say(&text(question, wait));
    let deadline = timing.now() + wait;
    loop {
        while let Some(line) = inputs.iter_mut().find_map(Input::line) {
            match question.answer(&line) {
                Some(answer) => return Some(answer),
                None => console.say(&refusal(question, &line)),
            }
        }
        let now = timing.now();
        if now >= deadline {
            return None;
        }
        timing.sleep(LOOK.min(deadline - now));
    }
}

/// What a console has to give.
struct Input {
    file: File,
    /// The beginning of a line.
    typed: Vec<u8>,
}

impl Input {
    fn new(file: File) -> Input {
        // Only a terminal keeps what was typed before; anything else has nothing to forget.
        let _ = tcflush(&file, QueueSelector::IFlush);
        Input { file, typed: Vec::new() }
    }

    /// A line that was typed whole, without its end.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.typed.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                let line: Vec<u8> = self.typed.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.typed.len() > LINE_BYTES_MAX {
                self.typed.clear();
            }
            let mut buffer = [0; 256];
            match read(&self.file, &mut buffer) {
                Ok(length) if length > 0 => self.typed.extend(&buffer[..length]),
                Err(Errno::INTR) => {}
                // Nothing for now, or for ever; the others may have something.
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

fn text(question: &AskOrder, wait: Duration) -> String {
    let rule = "-".repeat(72);
    let mut lines = vec![rule.clone(), question.text.clone()];
    for (index, choice) in question.choices.iter().enumerate() {
        lines.push(format!("  {}  {choice}", index + 1));
    }
    let how = if question.choices.is_empty() { "an answer" } else { "a number or a name" };
    let otherwise = match &question.default {
        Some(default) => format!("it is {default}"),
        None => "the machine waits, and asks again".to_owned(),
    };
    lines.push(format!(
        "Type {how} and press Enter. Without an answer in {} s {otherwise}.",
        wait.as_secs()
    ));
    lines.push(rule);
    lines.join("\n")
}

fn refusal(question: &AskOrder, line: &str) -> String {
    let line: String = line.chars().take(80).collect();
    match question.choices.is_empty() {
        true => format!("{line:?} is no answer: it has 1 to {} bytes", AskOrder::ANSWER_BYTES_MAX),
        false => format!("{line:?} is none of {}: type one of them", question.choices.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    use store_remote::SystemTiming;

    use super::*;
    use crate::testing::FastTiming;

    fn question(default: Option<&str>) -> AskOrder {
        AskOrder {
            name: "role".into(),
            text: "What is this machine for?".into(),
            choices: vec!["db".into(), "web".into()],
            default: default.map(str::to_owned),
            wait_secs: 3600,
        }
    }

    /// A console, and the end of it that a person sits at.
    fn console() -> (File, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (File::from(OwnedFd::from(ours)), theirs)
    }

    /// A person who types a line whenever one comes that contains a word, and then tells
    /// what was to be read.
    fn person(
        console: UnixStream,
        script: &'static [(&'static str, &'static str)],
    ) -> JoinHandle<String> {
        std::thread::spawn(move || {
            let mut hand = console.try_clone().unwrap();
            let mut seen = String::new();
            let mut script = script.iter();
            let mut next = script.next();
            for line in BufReader::new(console).lines() {
                let line = line.unwrap();
                if let Some((word, types)) = next.filter(|(word, _)| line.contains(word)) {
                    assert!(!word.is_empty());
                    hand.write_all(types.as_bytes()).unwrap();
                    next = script.next();
                }
                seen.push_str(&line);
                seen.push('\n');
            }
            assert!(next.is_none(), "not all was typed: {seen}");
            seen
        })
    }

    #[test]
    fn an_answer_from_any_console_after_wrong_ones() {
        let ((first, silent), (second, busy)) = (console(), console());
        let silent = person(silent, &[]);
        let busy = person(
            busy,
            &[("Type a number", "cache\n"), ("\"cache\" is none", "3\r"), ("\"3\" is", "2\n")],
        );
        let console = Console::to(vec![first, second]);
        let answer = ask(&console, &question(None), &SystemTiming::default());
        assert_eq!(answer.as_deref(), Some("web"));
        drop(console);
        let (silent, busy) = (silent.join().unwrap(), busy.join().unwrap());
        for part in [
            "What is this machine for?",
            "  1  db",
            "  2  web",
            "Without an answer in 3600 s the machine waits, and asks again.",
            "\"cache\" is none of db, web: type one of them",
        ] {
            assert!(silent.contains(part) && busy.contains(part), "{part}: {silent}");
        }
    }

    #[test]
    fn an_empty_line_is_the_default_and_any_text_where_there_are_no_choices() {
        let (ours, theirs) = console();
        let person_ = person(theirs, &[("it is db", "\n")]);
        let console_ = Console::to(vec![ours]);
        let answer = ask(&console_, &question(Some("db")), &SystemTiming::default());
        assert_eq!(answer.as_deref(), Some("db"));
        drop(console_);
        person_.join().unwrap();

        let (ours, theirs) = console();
        let person_ = person(theirs, &[("Type an answer", "\n"), ("\"\" is no", " rack 7 \n")]);
        let console_ = Console::to(vec![ours]);
        let free = AskOrder { choices: vec![], ..question(None) };
        let answer = ask(&console_, &free, &SystemTiming::default());
        assert_eq!(answer.as_deref(), Some("rack 7"));
        drop(console_);
        person_.join().unwrap();
    }

    #[test]
    fn nobody_answers_whatever_is_connected() {
        // Somebody begins a line and goes, nobody is there, nothing can be read, too much.
        let (begun, mut hand) = console();
        hand.write_all(b"we").unwrap();
        let (alone, _nobody) = console();
        let (flooded, mut flood) = console();
        flood.write_all(&[b'x'; 5000]).unwrap();
        let gone = console().0;
        let unreadable = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let console = Console::to(vec![begun, alone, flooded, gone, unreadable]);
        for default in [None, Some("db")] {
            assert_eq!(ask(&console, &question(default), &FastTiming::default()), None);
        }
    }

    #[test]
    fn what_was_typed_into_a_terminal_before_is_no_answer() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = std::path::PathBuf::from(name.into_string().unwrap());
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(path, folder.path().join("ttyS0")).unwrap();
        let console = Console::open(folder.path(), folder.path());
        let mut hand = File::from(master);
        hand.write_all(b"db\n").unwrap();
        let reader = hand.try_clone().unwrap();
        let person = std::thread::spawn(move || {
            // The line comes back from the terminal once, as an echo, before the question.
            let mut lines = BufReader::new(reader).lines();
            let shown = lines.any(|line| line.unwrap().contains("Type a number"));
            hand.write_all(b"web\n").unwrap();
            (shown, hand)
        });
        let answer = ask(&console, &question(None), &SystemTiming::default());
        assert_eq!(answer.as_deref(), Some("web"));
        assert!(person.join().unwrap().0);
    }
}
