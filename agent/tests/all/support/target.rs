//! A disk in memory with a cache that a power cut loses.

use std::io;
use std::sync::Mutex;

use agent::target::{Target, is_zero};

/// What a power cut leaves of the writes since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of them.
    KeepsAll,
    /// None.
    LosesAll,
    /// Every other one: disks write in any order.
    KeepsSome,
    /// All, and half of the sectors of the write that was under way.
    TearsLast,
    /// Only the write that was under way: it overtook all others.
    OnlyLast,
    /// Only the second half of the sectors of the write that was under way.
    OnlyEndOfLast,
}

#[derive(Debug)]
struct State {
    /// What reads see.
    seen: Vec<u8>,
    /// What survives.
    durable: Vec<u8>,
    /// Written since the last flush: offset and bytes.
    cached: Vec<(usize, Vec<u8>)>,
    /// Writes until the power goes, and how.
    left: Option<usize>,
    writes: usize,
    cut: Cut,
    /// Bytes whose reads from the medium are wrong.
    bad: Option<usize>,
    /// A byte that cannot be read until it is written again.
    unreadable: Option<usize>,
}

/// The disk.
#[derive(Debug)]
pub struct MemoryDisk {
    state: Mutex<State>,
    sector: u32,
}

impl MemoryDisk {
    pub fn new(bytes: Vec<u8>, sector: u32) -> MemoryDisk {
        let state = State {
            seen: bytes.clone(),
            durable: bytes,
            cached: Vec::new(),
            left: None,
            writes: 0,
            cut: Cut::KeepsAll,
            bad: None,
            unreadable: None,
        };
        MemoryDisk { state: Mutex::new(state), sector }
    }

    /// The power goes at the write after so many.
    pub fn cut_after(&self, writes: usize, cut: Cut) {
        let mut state = self.state.lock().unwrap();
        state.left = Some(writes);
        state.cut = cut;
    }

    /// Power comes back: what is cached is gone.
    pub fn power_on(&self) {
        let mut state = self.state.lock().unwrap();
        state.seen = state.durable.clone();
        state.cached.clear();
        state.left = None;
    }

    /// A byte of the medium reads wrong from now on, until it is written again.
    pub fn rot(&self, at: usize) {
        self.state.lock().unwrap().bad = Some(at);
    }

    /// Reads of a byte fail from now on, until it is written again.
    pub fn fail_reads(&self, at: usize) {
        self.state.lock().unwrap().unreadable = Some(at);
    }

    pub fn writes(&self) -> usize {
        self.state.lock().unwrap().writes
    }

    pub fn bytes_now(&self) -> Vec<u8> {
        self.state.lock().unwrap().seen.clone()
    }
}

impl State {
    fn put(&mut self, at: usize, bytes: &[u8], sector: usize) -> io::Result<()> {
        if self.left == Some(0) {
            self.lose_power(at, bytes, sector);
            self.left = None;
            // From now on nothing works.
            self.left = Some(usize::MAX);
        }
        if self.left == Some(usize::MAX) {
            return Err(io::Error::other("the power is gone"));
        }
        self.left = self.left.map(|left| left - 1);
        self.writes += 1;
        self.seen[at..at + bytes.len()].copy_from_slice(bytes);
        if self.bad.is_some_and(|bad| (at..at + bytes.len()).contains(&bad)) {
            self.bad = None;
        }
        if self.unreadable.is_some_and(|bad| (at..at + bytes.len()).contains(&bad)) {
            self.unreadable = None;
        }
        self.cached.push((at, bytes.to_vec()));
        Ok(())
    }

    fn lose_power(&mut self, at: usize, bytes: &[u8], sector: usize) {
        let cached = std::mem::take(&mut self.cached);
        for (index, (at, bytes)) in cached.iter().enumerate() {
            let kept = match self.cut {
                Cut::KeepsAll | Cut::TearsLast => true,
                Cut::LosesAll | Cut::OnlyLast | Cut::OnlyEndOfLast => false,
                Cut::KeepsSome => index % 2 == 1,
            };
            if kept {
                self.durable[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        let middle = bytes.len() / 2 / sector * sector;
        let kept = match self.cut {
            Cut::TearsLast => 0..middle,
            Cut::OnlyLast => 0..bytes.len(),
            // A single sector is written whole or not at all.
            Cut::OnlyEndOfLast if middle > 0 => middle..bytes.len(),
            _ => 0..0,
        };
        self.durable[at + kept.start..at + kept.end].copy_from_slice(&bytes[kept]);
    }
}

impl Target for MemoryDisk {
    fn bytes(&self) -> u64 {
        self.state.lock().unwrap().seen.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let state = self.state.lock().unwrap();
        if state.unreadable.is_some_and(|bad| (at..at + buffer.len()).contains(&bad)) {
            return Err(io::Error::other("a bad sector"));
        }
        let bytes = state.seen.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(self.sector.into()), "unaligned {offset}");
        assert!(buffer.len().is_multiple_of(self.sector as usize), "unaligned {}", buffer.len());
        assert!(buffer.as_ptr().addr().is_multiple_of(4096), "unaligned memory");
        self.read_at(offset, buffer)?;
        let at = usize::try_from(offset).unwrap();
        if let Some(bad) = self.state.lock().unwrap().bad
            && (at..at + buffer.len()).contains(&bad)
        {
            buffer[bad - at] ^= 0x40;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.state.lock().unwrap().put(at, bytes, self.sector as usize)
    }

    fn zero(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let (at, length) = (usize::try_from(offset).unwrap(), usize::try_from(bytes).unwrap());
        let mut state = self.state.lock().unwrap();
        if is_zero(&state.seen[at..at + length]) {
            return Ok(0);
        }
        state.put(at, &vec![0; length], self.sector as usize)?;
        Ok(bytes)
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.left == Some(usize::MAX) {
            return Err(io::Error::other("the power is gone"));
        }
        let cached = std::mem::take(&mut state.cached);
        for (at, bytes) in cached {
            state.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.flush()
    }

    fn reread_table(&self) -> io::Result<()> {
        Ok(())
    }
}
