//! Running the host's tools: a fixed environment, their output as log lines,
//! and an error that shows the last of them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

/// How many of its last lines an error shows.
const TAIL_LINES: usize = 25;
/// Longest line that is kept whole, in bytes: a tool may print without line ends.
const LINE_BYTES_MAX: usize = 4096;
/// Most bytes of a tool's output that are taken as a value.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Receives one line of output without its end.
pub(crate) type Log<'a> = &'a mut dyn FnMut(&str);

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started or talked to.
    #[error("cannot run {program}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} ended with {status}{}", tail_text(tail))]
    Failed {
        /// Which.
        program: String,
        /// Its exit code or signal.
        status: ExitStatus,
        /// The last lines it printed.
        tail: Vec<String>,
    },
    /// It took or gave bytes that could not be moved.
    #[error("cannot move the data of {program}")]
    Data {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn tail_text(tail: &[String]) -> String {
    match tail {
        [] => " and printed nothing".to_owned(),
        lines => format!("; its last lines:\n    {}", lines.join("\n    ")),
    }
}

/// A command with only what a reproducible tool may see: fixed locale and time
/// zone, and the epoch as its clock where it asks for one.
pub(crate) fn command(program: impl AsRef<OsStr>, epoch: u64) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("HOME", "/nonexistent")
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .stdin(Stdio::null());
    command
}

/// Runs it, with everything that it prints as log lines.
pub(crate) fn run(command: &mut Command, log: Log<'_>) -> Result<(), ToolError> {
    let program = name(command);
    let (reader, writer) = io::pipe().map_err(|source| start(&program, source))?;
    let spawned = writer.try_clone().and_then(|stderr| {
        let child = command.stdout(writer).stderr(stderr).spawn();
        // The command holds this side's ends of the pipe until it is given others.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        child
    });
    let child = spawned.map_err(|source| start(&program, source))?;
    let tail = lines(reader, log);
    finish(child, program, tail)
}

/// Runs it and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, ToolError> {
    let program = name(command);
    let mut text = Vec::new();
    read_from(command, &mut |out| out.take(OUTPUT_BYTES_MAX).read_to_end(&mut text), &mut |_| {})
        .map(|_| String::from_utf8_lossy(&text).trim().to_owned())
        .map_err(|error| match error {
            ToolError::Failed { status, tail, .. } => ToolError::Failed { program, status, tail },
            other => other,
        })
}

/// Runs it with its standard output going to `sink` and its standard error to the log.
pub(crate) fn read_from<T: Send>(
    command: &mut Command,
    sink: &mut (dyn FnMut(&mut dyn Read) -> io::Result<T> + Send),
    log: Log<'_>,
) -> Result<T, ToolError> {
    let program = name(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| start(&program, source))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (moved, tail) = thread::scope(|scope| {
        let moving = scope.spawn(move || stdout.map(|mut out| sink(&mut out)));
        let tail = stderr.map(|err| lines(err, log)).unwrap_or_default();
        (moving.join(), tail)
    });
    finish(child, program.clone(), tail)?;
    match moved {
        Ok(Some(Ok(value))) => Ok(value),
        Ok(Some(Err(source))) => Err(ToolError::Data { program, source }),
        _ => Err(ToolError::Data { program, source: io::Error::other("its reader stopped") }),
    }
}

/// Runs it with `source` as its standard input.
pub(crate) fn write_to(
    command: &mut Command,
    source: &mut (dyn Read + Send),
    log: Log<'_>,
) -> Result<(), ToolError> {
    let program = name(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| start(&program, source))?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let (moved, tail) = thread::scope(|scope| {
        let moving = scope.spawn(move || match stdin {
            Some(mut stdin) => io::copy(source, &mut stdin).and_then(|_| stdin.flush()),
            None => Ok(()),
        });
        let tail = stderr.map(|err| lines(err, log)).unwrap_or_default();
        (moving.join(), tail)
    });
    // A tool that failed stops reading: its own words explain more than a broken pipe.
    finish(child, program.clone(), tail)?;
    match moved {
        Ok(moved) => moved.map_err(|source| ToolError::Data { program, source }),
        Err(_) => Err(ToolError::Data { program, source: io::Error::other("its writer stopped") }),
    }
}

/// Reads lines until the end, logs them, and returns the last ones.
pub(crate) fn lines(reader: impl Read, log: Log<'_>) -> Vec<String> {
    let mut reader = BufReader::new(reader);
    let mut tail = VecDeque::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = LINE_BYTES_MAX as u64;
        match reader.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(1..) => (),
            // A pipe that cannot be read is at its end; the exit status tells the rest.
            Ok(0) | Err(_) => return tail.into(),
        }
        let text = String::from_utf8_lossy(&line);
        // Progress meters overwrite themselves: only their last state is a line.
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        log(text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }
}

/// Waits for the end and turns a bad one into an error.
pub(crate) fn finish(
    mut child: Child,
    program: String,
    tail: Vec<String>,
) -> Result<(), ToolError> {
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ToolError::Failed { program, status, tail }),
        Err(source) => Err(ToolError::Start { program, source }),
    }
}

pub(crate) fn start(program: &str, source: io::Error) -> ToolError {
    ToolError::Start { program: program.to_owned(), source }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command("sh", 7);
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_shows_the_last_lines_and_the_exit_code() {
        let mut seen = Vec::new();
        let script =
            "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); done; echo bad >&2; exit 3";
        let error = run(&mut shell(script), &mut |line| seen.push(line.to_owned())).unwrap_err();
        assert_eq!(seen.len(), 41);
        let text = error.to_string();
        assert!(text.starts_with("sh ended with exit status: 3; its last lines:"), "{text}");
        assert!(text.contains("line 39\n    bad") && !text.contains("line 15\n"), "{text}");
    }

    #[test]
    fn a_tool_that_is_not_there_is_named() {
        let error = run(&mut command("no-such-tool-here", 0), &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "cannot run no-such-tool-here");
    }

    #[test]
    fn only_the_given_environment_is_seen() {
        let text = output(&mut shell("env | sort | grep -v ^PWD | cut -d= -f1")).unwrap();
        let names: Vec<&str> = text.lines().filter(|name| !["SHLVL", "_"].contains(name)).collect();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH", "SOURCE_DATE_EPOCH", "TZ"]);
    }

    #[test]
    fn bytes_go_in_and_out_while_errors_are_logged() {
        let mut seen = Vec::new();
        let bytes = vec![b'x'; 300_000];
        write_to(&mut shell("wc -c >&2"), &mut bytes.as_slice(), &mut |line| {
            seen.push(line.to_owned())
        })
        .unwrap();
        assert_eq!(seen, ["300000"]);
        let mut count = |out: &mut dyn Read| io::copy(out, &mut io::sink());
        let moved = read_from(
            &mut shell("head -c 300000 /dev/zero; echo done >&2"),
            &mut count,
            &mut |_| (),
        );
        assert_eq!(moved.unwrap(), 300_000);
    }

    #[test]
    fn a_tool_that_stops_reading_fails_with_its_own_words() {
        let bytes = vec![0; 1 << 20];
        let error = write_to(&mut shell("echo no >&2; exit 2"), &mut bytes.as_slice(), &mut |_| ())
            .unwrap_err();
        assert!(matches!(error, ToolError::Failed { .. }), "{error:?}");
    }

    #[test]
    fn long_and_empty_lines_are_bounded() {
        let mut seen = Vec::new();
        let text = [vec![b'a'; 10_000], b"\n\n\nx\ry\n".to_vec()].concat();
        lines(text.as_slice(), &mut |line| seen.push(line.to_owned()));
        assert!(seen.iter().all(|line| line.len() <= LINE_BYTES_MAX));
        assert_eq!(seen.last().map(String::as_str), Some("y"));
    }
}
