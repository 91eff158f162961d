//! One file on its way to one client.

use std::time::Duration;

use bytes::Bytes;

use super::packet::{self, ReadRequest};
use super::server::Limits;

/// Block size without the option (RFC 1350).
const BLKSIZE: u16 = 512;

/// First wait for an acknowledgement without the `timeout` option; doubled
/// with every repetition.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Repetitions before a client is given up.
const RETRIES_MAX: u32 = 5;

/// Blocks are counted from 1 without wrapping; the wire carries the low 16 bits,
/// so that block 65536 is 0.
#[derive(Debug)]
pub(super) struct Transfer {
    /// What was asked for, to recognise a repeated request.
    pub request: ReadRequest,
    /// The file.
    pub file: Bytes,
    /// When it began.
    pub started: Duration,
    /// When the client last made progress.
    pub last_progress: Duration,
    /// When to send again.
    pub deadline: Duration,
    /// Blocks sent more than once.
    pub repeated: u64,
    blksize: u16,
    window: u16,
    /// The answer to the options, until it is acknowledged.
    oack: Option<Vec<u8>>,
    oack_sent: bool,
    acked: u64,
    /// Last block sent since the last acknowledgement or repetition.
    sent: u64,
    /// Last block ever sent.
    sent_max: u64,
    retries: u32,
    /// The window was already repeated for a duplicate acknowledgement.
    repeated_for_duplicate: bool,
}

/// What an acknowledgement or a timeout means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be something to send.
    Continue,
    /// Nothing changed.
    Nothing,
    /// The client has everything.
    Finished,
    /// The client is silent.
    GivenUp,
}

impl Transfer {
    pub fn new(now: Duration, request: ReadRequest, file: Bytes, limits: &Limits) -> Transfer {
        let blksize = request.blksize.map(|size| size.min(limits.blksize_max.max(8)));
        let window = request.windowsize.map(|size| size.min(limits.window_max.max(1)));
        let mut options = Vec::new();
        if let Some(size) = blksize {
            options.push(("blksize", size.into()));
        }
        // Clients refuse a size of zero; it need not be told (RFC 2349).
        if request.tsize && !file.is_empty() {
            // usize fits into u64 on everything this runs on.
            options.push(("tsize", u64::try_from(file.len()).unwrap_or(u64::MAX)));
        }
        if let Some(seconds) = request.timeout {
            options.push(("timeout", seconds.into()));
        }
        if let Some(size) = window {
            options.push(("windowsize", size.into()));
        }
        let mut transfer = Transfer {
            file,
            started: now,
            last_progress: now,
            deadline: now,
            repeated: 0,
            blksize: blksize.unwrap_or(BLKSIZE),
            window: window.unwrap_or(1),
            oack: (!options.is_empty()).then(|| packet::oack(&options)),
            oack_sent: false,
            acked: 0,
            sent: 0,
            sent_max: 0,
            retries: 0,
            repeated_for_duplicate: false,
            request,
        };
        transfer.wait(now);
        transfer
    }

    /// How long it took, once it is finished.
    pub fn elapsed(&self) -> Duration {
        self.last_progress.saturating_sub(self.started)
    }

    pub fn blksize(&self) -> u16 {
        self.blksize
    }

    pub fn window(&self) -> u16 {
        self.window
    }

    /// Whether the client has acknowledged nothing yet.
    pub fn is_new(&self) -> bool {
        self.acked == 0
    }

    /// Whether the client has not yet agreed to the options.
    pub fn is_negotiating(&self) -> bool {
        self.oack.is_some()
    }

    /// Writes the next datagram into `out`; `false` when there is none now.
    pub fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(oack) = &self.oack {
            let due = !self.oack_sent;
            if due {
                out.extend_from_slice(oack);
                self.oack_sent = true;
            }
            return due;
        }
        if self.sent >= self.last_block().min(self.acked + u64::from(self.window)) {
            return false;
        }
        self.sent += 1;
        if self.sent <= self.sent_max {
            self.repeated += 1;
        }
        self.sent_max = self.sent_max.max(self.sent);
        packet::data(out, wire_number(self.sent), self.block(self.sent));
        true
    }

    /// The client has all blocks up to `number`. A repeated acknowledgement
    /// sends nothing again (else every block is doubled from then on); only
    /// with windows, where it tells of a gap, it does so once.
    pub fn acked(&mut self, now: Duration, number: u16) -> Step {
        if self.oack.is_some() {
            if number != 0 || !self.oack_sent {
                return Step::Nothing;
            }
            self.oack = None;
            self.progress(now);
            return Step::Continue;
        }
        let block = self.acked + u64::from(number.wrapping_sub(wire_number(self.acked)));
        if block > self.sent_max {
            return Step::Nothing;
        }
        if block == self.acked {
            if self.window == 1 || self.repeated_for_duplicate {
                return Step::Nothing;
            }
            self.repeated_for_duplicate = true;
            self.sent = self.acked;
            return Step::Continue;
        }
        self.acked = block;
        self.sent = block;
        self.progress(now);
        if block == self.last_block() { Step::Finished } else { Step::Continue }
    }

    /// The deadline is over.
    pub fn timed_out(&mut self, now: Duration) -> Step {
        if self.retries == RETRIES_MAX {
            return Step::GivenUp;
        }
        self.retries += 1;
        self.wait(now);
        self.repeat();
        Step::Continue
    }

    /// Sends again what the client has not acknowledged.
    pub fn repeat(&mut self) {
        self.oack_sent = false;
        self.sent = self.acked;
    }

    fn progress(&mut self, now: Duration) {
        self.retries = 0;
        self.last_progress = now;
        self.repeated_for_duplicate = false;
        self.wait(now);
    }

    fn wait(&mut self, now: Duration) {
        let first = self.request.timeout.map_or(TIMEOUT, |s| Duration::from_secs(s.into()));
        self.deadline = now + first * 2_u32.pow(self.retries);
    }

    /// The last block is always shorter than the others, if need be empty.
    fn last_block(&self) -> u64 {
        u64::try_from(self.file.len()).unwrap_or(u64::MAX) / u64::from(self.blksize) + 1
    }

    fn block(&self, number: u64) -> &[u8] {
        let size = usize::from(self.blksize);
        let start = usize::try_from(number - 1).unwrap_or(usize::MAX).saturating_mul(size);
        let end = start.saturating_add(size).min(self.file.len());
        self.file.get(start..end).unwrap_or_default()
    }
}

fn wire_number(block: u64) -> u16 {
    let [.., high, low] = block.to_be_bytes();
    u16::from_be_bytes([high, low])
}
