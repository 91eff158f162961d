//! QEMU's control socket: one short conversation per command.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What the guest has done to one disk since the machine was switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskIo {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes discarded or zeroed without data.
    pub discarded_bytes: u64,
    /// Flush requests.
    pub flushes: u64,
}

/// Runs one command and returns what it answered.
pub(crate) fn execute(socket: &Path, command: &str) -> Result<Value> {
    let talk = || -> Result<Value> {
        let mut stream = connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        ensure!(read(&mut lines)?.get("QMP").is_some(), "no greeting");
        for word in ["qmp_capabilities", command] {
            writeln!(stream, "{}", json!({ "execute": word }))?;
            let answer = answer(&mut lines)?;
            if word == command {
                return Ok(answer);
            }
        }
        Ok(Value::Null)
    };
    talk().with_context(|| format!("QMP {command} at {}", socket.display()))
}

/// The I/O of the disks `disk0`, `disk1` and so on.
pub(crate) fn disk_io(socket: &Path, count: usize) -> Result<Vec<DiskIo>> {
    let answer = execute(socket, "query-blockstats")?;
    let all = answer.as_array().context("query-blockstats: not a list")?;
    let of = |index: usize| {
        let name = format!("disk{index}");
        let entry = all.iter().find(|entry| entry["device"] == name.as_str());
        let stats = &entry.with_context(|| format!("no statistics of {name}"))?["stats"];
        let number = |key: &str| stats[key].as_u64().with_context(|| format!("{name}: no {key}"));
        Ok(DiskIo {
            read_bytes: number("rd_bytes")?,
            written_bytes: number("wr_bytes")?,
            discarded_bytes: number("unmap_bytes")?,
            flushes: number("flush_operations")?,
        })
    };
    (0..count).map(of).collect()
}

/// QEMU makes the socket shortly after it starts.
fn connect(socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The next answer; events in between are skipped.
fn answer(lines: &mut impl BufRead) -> Result<Value> {
    loop {
        let mut message = read(lines)?;
        if let Some(value) = message.get_mut("return") {
            return Ok(value.take());
        }
        if let Some(error) = message.get("error") {
            bail!("refused: {error}");
        }
    }
}

fn read(lines: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    std::io::Read::take(lines, LINE_BYTES_MAX).read_line(&mut line)?;
    ensure!(!line.is_empty(), "QEMU closed the connection");
    Ok(serde_json::from_str(&line)?)
}
