//! `ingot serve` on loopback, with one image and two rules.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests_rig::Process;

use crate::shell::run;

const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = "[http]\nlisten = \"127.0.0.1:0\"\n\n[store]\nurl = \"store\"\n\n\
                      [state]\nfolder = \"state\"\n\n[policy]\nfile = \"policy.toml\"\n\n\
                      [log]\nformat = \"json\"\n";

const POLICY: &str = "[[rule]]\nname = \"large\"\nwhen = 'memory.usable > 32 GiB'\n\
                      image = \"large:1\"\n\n[[rule]]\nname = \"rest\"\nimage = \"small:1\"\n";

/// A server, ended when it is dropped.
pub struct Server {
    process: Process,
    url: String,
}

impl Server {
    /// Starts one that keeps everything in `folder`, and waits until it serves.
    pub fn start(ingot: &Path, folder: &Path) -> Result<Server> {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        write("ingot.toml", CONFIG.as_bytes())?;
        write("policy.toml", POLICY.as_bytes())?;
        for name in ["small", "large"] {
            write("disk.raw", &name.as_bytes().repeat(100_000))?;
            let import = ["import", "--quiet", "--store", "store", "--tag", &format!("{name}:1")];
            run(Command::new(ingot)
                .current_dir(folder)
                .args(import)
                .arg("disk.raw")
                .stdout(Stdio::null()))?;
        }
        let mut serve = Command::new(ingot);
        serve.current_dir(folder).args(["serve", "--config", "ingot.toml"]);
        let process = Process::spawn(serve, &folder.join("serve.log"))?;
        process.console().wait_for("\"url\":\"", PATIENCE)?;
        let text = process.console().text();
        let said = |line: &str| serde_json::from_str::<Value>(line).ok();
        let url =
            text.lines().filter_map(said).find_map(|line| line["url"].as_str().map(str::to_owned));
        let url = url.with_context(|| format!("the server names no URL:\n{text}"))?;
        Ok(Server { process, url })
    }

    /// Where it serves.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.pid());
        let status =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        peak(&status).with_context(|| format!("{path} does not tell it"))
    }
}

fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_read() {
        let status = "Name:\tingot\nVmPeak:\t  9000 kB\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(peak(status), Some(2 << 20));
        assert_eq!(peak("Name:\tingot\n"), None);
    }
}
