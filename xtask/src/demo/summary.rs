//! What the demo has shown, in numbers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

/// One power-on, from the switch to the login prompt.
pub struct PowerOn {
    /// Time until the agent runs.
    pub to_agent: Duration,
    /// Time until it starts the installed OS.
    pub to_start: Duration,
    /// Time to the login prompt.
    pub to_login: Duration,
    /// Image bytes that left the server.
    pub image_bytes_sent: u64,
    /// Bytes that reached the disk, by the installation and by the OS itself.
    pub disk_bytes_written: u64,
    /// The run, as the server has it on record.
    pub detail: Value,
}

/// The whole demo.
pub struct Summary {
    /// With the disk empty.
    pub first: PowerOn,
    /// With the disk as it was left.
    pub second: PowerOn,
    /// From the command to here.
    pub total: Duration,
}

impl Summary {
    /// Prints it.
    pub fn print(&self) {
        println!("{:34}{:>18}{:>18}", "", "first", "second");
        self.row("from power-on to the agent", |on| seconds(on.to_agent));
        for step in ["plan", "transfer", "verify", "seal"] {
            self.row(&format!("  {step}"), |on| on.step(step));
        }
        self.row("from power-on to its OS", |on| seconds(on.to_start));
        self.row("from power-on to login", |on| seconds(on.to_login));
        self.row("image bytes over the network", |on| mib(on.image_bytes_sent));
        self.row("bytes written to the disk", |on| mib(on.disk_bytes_written));
        self.row("run ended as", |on| on.detail["state"].as_str().unwrap_or("?").to_owned());
        let image = self.first.detail["plan"]["image_bytes"].as_u64().unwrap_or(0);
        let saved = image.saturating_sub(self.second.image_bytes_sent);
        println!(
            "\nthe image holds {} of data; the second boot moved {} of it and saved {}",
            mib(image),
            mib(self.second.image_bytes_sent),
            mib(saved)
        );
        println!("the whole demo took {}", seconds(self.total));
    }

    /// Fails unless the first power-on installed and the second moved nothing.
    pub fn check(&self) -> Result<()> {
        let state = |on: &PowerOn| on.detail["state"].as_str().unwrap_or("?").to_owned();
        let (first, second) = (state(&self.first), state(&self.second));
        ensure!(first == "succeeded", "the first run ended as {first}");
        ensure!(second == "already-installed", "the second run ended as {second}");
        ensure!(self.first.image_bytes_sent > 0, "the server counted no image byte");
        let again = self.second.image_bytes_sent;
        ensure!(again == 0, "the second power-on moved {again} bytes of the image");
        Ok(())
    }

    fn row(&self, name: &str, value: impl Fn(&PowerOn) -> String) {
        println!("{name:34}{:>18}{:>18}", value(&self.first), value(&self.second));
    }
}

impl PowerOn {
    /// How long a step took, by the machine's own clock.
    fn step(&self, name: &str) -> String {
        let steps = self.detail["steps"].as_array();
        let step = steps.and_then(|steps| steps.iter().find(|step| step["step"] == name));
        let elapsed = step.and_then(|step| step["elapsed_ms"].as_u64());
        elapsed.map_or("-".to_owned(), |ms| seconds(Duration::from_millis(ms)))
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
