//! The kernel's log, as far as somebody who looks for a cause wants it: what it
//! warns of goes into the machine's log.

use std::io::{ErrorKind, Read};

use rustix::io::Errno;

/// The least severe level that is passed on: warnings (`LOG_WARNING`, RFC 5424 §6.2.1).
const LEVEL_MAX: u32 = 4;
/// Longest record that the kernel gives (`CONSOLE_EXT_LOG_MAX`, `PRINTKRB_RECORD_MAX`).
const RECORD_BYTES_MAX: usize = 8192;
/// Most lines of one boot: a driver that never stops complaining is known by then.
const LINES_MAX: usize = 1000;

/// Reads records until there are no more, and hands the lines on that count.
///
/// Each read of `/dev/kmsg` gives one record and waits for it
/// (Documentation/ABI/testing/dev-kmsg of the kernel).
pub fn follow(mut kernel: impl Read, mut line: impl FnMut(String)) {
    let mut record = [0; RECORD_BYTES_MAX];
    let mut lines = 0;
    loop {
        let text = match kernel.read(&mut record) {
            Ok(0) => return,
            Ok(len) => warning(&record[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            // Written over before it was read; the next read gives what is there.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => None,
            Err(_) => return,
        };
        let Some(text) = text else { continue };
        lines += 1;
        if lines > LINES_MAX {
            return line(format!("kernel: more than {LINES_MAX} warnings: the rest is left out"));
        }
        line(text);
    }
}

/// The text of a record, with its time since the kernel started, where it is a warning or worse.
fn warning(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let level = fields.next()?.parse::<u32>().ok()? & 7;
    let micros = fields.nth(1)?.parse::<u64>().ok()?;
    // What follows in lines of its own are the record's properties.
    let text = text.lines().next().unwrap_or_default();
    let (secs, micros) = (micros / 1_000_000, micros % 1_000_000);
    (level <= LEVEL_MAX).then(|| format!("kernel: [{secs:5}.{micros:06}] {text}"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;

    use proptest::prelude::*;

    use super::*;

    /// Gives one record with each read, as the kernel does.
    struct Records(VecDeque<io::Result<Vec<u8>>>);

    impl Read for Records {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(record) = self.0.pop_front() else { return Ok(0) };
            let record = record?;
            buffer[..record.len()].copy_from_slice(&record);
            Ok(record.len())
        }
    }

    fn lines(records: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Vec<String> {
        let mut lines = Vec::new();
        follow(Records(records.into_iter().collect()), |line| lines.push(line));
        lines
    }

    #[test]
    fn warnings_are_passed_on_and_what_was_written_over_is_passed_by() {
        let records = [
            Ok(b"6,339,5140900,-;NET: Registered protocol family 10\n".to_vec()),
            Ok(b"4,340,12690716,-;ata1: link is slow to respond\n SUBSYSTEM=ata\n".to_vec()),
            Err(Errno::PIPE.into()),
            Ok(b"0,402,99,c;Oops; there\n".to_vec()),
            // A program's: facility 1, level 3.
            Ok(b"11,403,1000000,-;fan\\x0a\n".to_vec()),
            Ok(b"no record".to_vec()),
            Ok(b"".to_vec()),
        ];
        let expected = [
            "kernel: [   12.690716] ata1: link is slow to respond",
            "kernel: [    0.000099] Oops; there",
            "kernel: [    1.000000] fan\\x0a",
        ];
        assert_eq!(lines(records), expected);
    }

    #[test]
    fn a_kernel_that_does_not_stop_complaining_is_left_alone() {
        let lines = lines((0..2000).map(|n| Ok(format!("4,{n},0,-;again\n").into_bytes())));
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert!(lines[LINES_MAX].contains("left out"), "{}", lines[LINES_MAX]);
    }

    proptest! {
        #[test]
        fn any_record_is_read(record in prop::collection::vec(any::<u8>(), 1..200)) {
            prop_assert!(lines([Ok(record)]).len() <= 1);
        }
    }
}
