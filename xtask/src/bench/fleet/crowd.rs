//! Machines that check in, each on a thread and by a connection of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

/// Where machines check in, and the version of what they say there.
const CHECK_IN: &str = "/v1/agent/check-in";
const VERSION: u32 = 1;
/// Longest that anybody waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// A thousand threads shall not need a thousand times the usual.
const STACK_BYTES: usize = 512 << 10;

/// Machines with these numbers, and where they check in.
#[derive(Clone)]
pub struct Crowd<'a> {
    /// The machines.
    pub numbers: Range<u32>,
    /// The server.
    pub url: &'a str,
}

/// How long each waited for its answer, shortest first.
pub struct Times(Vec<Duration>);

impl Crowd<'_> {
    /// All check in, so many at a time.
    pub fn by_turns(&self, at_once: u32) -> Result<Times> {
        let next = AtomicU32::new(self.numbers.start);
        self.threads(0..at_once, |_| {
            let mut times = Vec::new();
            let http = http();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.numbers.end {
                    return Ok(times);
                }
                times.push(self.check_in(&http, number)?);
            }
        })
    }

    /// All check in, evenly within this time. The clock of each runs from the
    /// moment when it wanted to, so that none is slow unseen.
    pub fn within(&self, time: Duration) -> Result<Times> {
        let begun = Instant::now();
        let count = self.numbers.end - self.numbers.start;
        self.threads(self.numbers.clone(), |number| {
            let due = begun + time * (number - self.numbers.start) / count;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.check_in(&http(), number)?;
            Ok(vec![due.max(begun).elapsed()])
        })
    }

    fn threads(
        &self,
        of: Range<u32>,
        work: impl Fn(u32) -> Result<Vec<Duration>> + Sync,
    ) -> Result<Times> {
        let work = &work;
        thread::scope(|scope| {
            let spawn = |number| {
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                thread.spawn_scoped(scope, move || work(number)).context("cannot start a thread")
            };
            let threads: Vec<_> = of.map(spawn).collect::<Result<_>>()?;
            let mut times = Vec::new();
            for thread in threads {
                times.extend(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
            }
            times.sort();
            Ok(Times(times))
        })
    }

    fn check_in(&self, http: &ureq::Agent, number: u32) -> Result<Duration> {
        let begun = Instant::now();
        let asked = http.post(format!("{}{CHECK_IN}", self.url)).send_json(asks(number));
        let mut answer = asked.with_context(|| format!("machine {number} was not answered"))?;
        let answer: Value = answer.body_mut().read_json().context("an answer is not JSON")?;
        let took = begun.elapsed();
        let image = if is_large(number) { "large:1" } else { "small:1" };
        ensure!(answer["order"]["reference"] == image, "machine {number} was told {answer}");
        Ok(took)
    }
}

impl Times {
    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time within which so many of a hundred were answered.
    pub fn of(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

fn http() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into()
}

fn is_large(number: u32) -> bool {
    number.is_multiple_of(4)
}

/// What the agent of a machine with two cards and two disks says.
fn asks(number: u32) -> Value {
    let gib: u64 = if is_large(number) { 64 } else { 16 };
    let disk = |name: &str| {
        json!({
            "name": name, "size_bytes": 480_u64 << 30, "sector_bytes": 512, "model": "SSD 480",
            "serial": format!("DISK-{number}-{name}"), "bus": "sata", "rotational": false,
        })
    };
    let card = |name: &str, kind: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        json!({ "name": name, "mac": format!("52:54:{kind:02x}:{a:02x}:{b:02x}:{c:02x}") })
    };
    json!({
        "version": VERSION,
        "boot": format!("{number:032x}"),
        "agent": "0.1.0",
        "inventory": {
            "system": {
                "manufacturer": "Acme", "product": "X1", "serial": format!("SN-{number}"),
                "uuid": format!("00112233-4455-6677-8899-aabb{number:08x}"),
                "board_serial": format!("BOARD-{number}"),
                "chassis_serial": format!("CHASSIS-{number}"),
            },
            "cpu": { "vendor": "GenuineIntel", "count": 16, "arch": "x86_64" },
            "memory": { "usable_bytes": gib << 30 },
            "firmware": { "kind": "uefi" },
            "disks": [disk("sda"), disk("sdb")],
            "nics": [card("eth0", 0), card("eth1", 1)],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_a_hundred_are_within_the_time() {
        let times = Times((1..=200).map(Duration::from_millis).collect());
        let of = |percent| u64::try_from(times.of(percent).as_millis()).unwrap();
        assert_eq!((of(50), of(99), of(100)), (100, 198, 200));
        let one = Times(vec![Duration::from_millis(7)]);
        assert_eq!((one.of(50), one.of(100)), (Duration::from_millis(7), Duration::from_millis(7)));
        assert_eq!(Times(Vec::new()).of(99), Duration::ZERO);
    }
}
