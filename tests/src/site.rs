//! A network of its own with an `ingot serve` in it, and machines to switch on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests_rig::{Disk, Firmware, Namespace, Process, Vm};

use crate::Product;

/// How long a machine may take from power-on to the end of an installation on
/// a slow, busy host under emulation. Only failures ever wait this long.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(900);

/// How long a server may take to answer after its start.
const SERVER_PATIENCE: Duration = Duration::from_secs(60);

/// The server's address on the bridge.
const ADDRESS: &str = "10.77.0.1";
const PORT: u16 = 8460;

/// A namespace, a server in it, and a folder for what they leave.
pub struct Site {
    /// The network. Declared first: it goes first, and takes what still runs in it along.
    pub net: Namespace,
    product: Product,
    folder: PathBuf,
    server: Option<Process>,
    starts: u32,
}

impl Site {
    /// A site whose server uses this store and these boot assets, and keeps its records
    /// in `folder`. The server is not started yet.
    pub fn new(product: &Product, store: &Path, assets: &Path, folder: &Path) -> Result<Site> {
        let net = Namespace::with_bridge(&format!("{ADDRESS}/24"))?;
        let config = format!(
            "[http]\nlisten = \"{ADDRESS}:{PORT}\"\n\n\
             [store]\nurl = \"{}\"\n\n\
             [state]\nfolder = \"state\"\n\n\
             [boot]\ninterface = \"br0\"\nassets = \"{}\"\n\
             pool = \"10.77.0.100-10.77.0.199\"\n\n\
             [policy]\nfile = \"policy.toml\"\n",
            store.display(),
            assets.display(),
        );
        let site = Site {
            net,
            product: product.clone(),
            folder: folder.to_owned(),
            server: None,
            starts: 0,
        };
        site.write("ingot.toml", &config)?;
        site.policy("")?;
        Ok(site)
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("http://{ADDRESS}:{PORT}")
    }

    /// A file in the site's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Replaces the policy, as a whole and with a time stamp that is not new: the server
    /// leaves a file alone that may still be being written.
    pub fn policy(&self, text: &str) -> Result<()> {
        self.write("policy.new", text)?;
        let new = self.path("policy.new");
        let a_while_ago = std::time::SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&new)?.set_modified(a_while_ago)?;
        std::fs::rename(&new, self.path("policy.toml"))?;
        Ok(())
    }

    /// The server takes uploads from its next start on.
    pub fn takes_uploads(&self) -> Result<()> {
        let config = std::fs::read_to_string(self.path("ingot.toml"))?;
        self.write("ingot.toml", &config.replace("[store]\n", "[store]\nuploads = true\n"))
    }

    /// Starts the server and waits until it answers.
    pub fn serve(&mut self) -> Result<()> {
        let mut command = self.net.command(&self.product.ingot);
        command.arg("serve").arg("--config").arg(self.path("ingot.toml"));
        self.starts += 1;
        let log = self.path(&format!("serve-{}.log", self.starts));
        self.server = Some(Process::spawn(command, &log)?);
        let answered = self.net.wait_http(&format!("{}/healthz", self.url()), SERVER_PATIENCE);
        answered.with_context(|| format!("the server said:\n{}", self.server_said()))?;
        Ok(())
    }

    /// What the server printed since its last start.
    pub fn server_said(&self) -> String {
        self.server.as_ref().map(|server| server.console().text()).unwrap_or_default()
    }

    /// The log file of the server's last start.
    pub fn server_log(&self) -> PathBuf {
        self.path(&format!("serve-{}.log", self.starts))
    }

    /// Ends the server at once, as a power cut would.
    pub fn kill_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }

    /// Asks the server to end, and waits until it has.
    pub fn stop_server(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            let status = server.terminate(Duration::from_secs(60))?;
            anyhow::ensure!(status.success(), "the server ended with {status}");
        }
        Ok(())
    }

    /// Runs `ingot` inside the site and returns what it printed.
    pub fn ingot(&self, arguments: &[&str]) -> Result<String> {
        let program = self.product.ingot.to_string_lossy().into_owned();
        let url = self.url();
        let words = [&[program.as_str(), "--server", url.as_str()], arguments].concat();
        self.net.run(&words)
    }

    /// What `ingot … --json` prints, parsed.
    pub fn ingot_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ingot(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Asks the server's HTTP face.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.net.http_get(&format!("{}{path}", self.url()))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        anyhow::ensure!(status == 200, "{path} answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} is not JSON: {body}"))
    }

    /// All runs, newest first.
    pub fn runs(&self) -> Result<Vec<Value>> {
        let list = self.get(wire::admin::RUNS)?;
        Ok(list["runs"].as_array().cloned().unwrap_or_default())
    }

    /// Everything about one run.
    pub fn run(&self, id: &str) -> Result<Value> {
        self.get(&format!("{}/{id}", wire::admin::RUNS))
    }

    /// The machine that has this hardware address, once it has checked in.
    pub fn machine_with(&self, mac: &str) -> Result<Option<Value>> {
        let list = self.get(wire::admin::MACHINES)?;
        let machines = list["machines"].as_array().cloned().unwrap_or_default();
        let has = |machine: &Value| {
            machine["macs"].as_array().is_some_and(|macs| macs.iter().any(|m| m == mac))
        };
        Ok(machines.into_iter().find(has))
    }

    /// Bytes that left the server as answers of this route since its start; image
    /// content is `/v1/packs/{pack}`.
    pub fn sent_bytes(&self, route: &str) -> Result<u64> {
        self.count(|line| line.starts_with("ingot_http_sent_bytes") && line.contains(route))
    }

    /// What the server counted since its start, by the name of the count.
    pub fn metric(&self, name: &str) -> Result<u64> {
        self.count(|line| line.split([' ', '{']).next() == Some(name))
    }

    fn count(&self, is_it: impl Fn(&str) -> bool) -> Result<u64> {
        let (_, text) = self.net.http_get(&format!("{}/metrics", self.url()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find(|line| is_it(line));
        let value = line.and_then(|line| line.rsplit(' ').next()).unwrap_or("0");
        value.parse().with_context(|| format!("no number in {line:?}"))
    }

    /// A machine with one empty disk of this size in the site's folder.
    pub fn machine(&self, name: &str, firmware: Firmware, mac: &str, disk: u64) -> Result<Vm> {
        let path = self.disk(name);
        Ok(Vm::new(name, firmware)
            .memory_mib(1024)
            .smbios("manufacturer", "Ingot Test")
            .smbios("product", name)
            .smbios("serial", &format!("SN-{name}"))
            .log(&self.path(&format!("{name}.log")))
            .disk(Disk::new(&path).size(disk).serial(&format!("DISK-{name}")))
            .network(&self.net.tap()?, mac))
    }

    /// The file of that machine's disk.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.raw"))
    }
}
