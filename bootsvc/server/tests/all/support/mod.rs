//! A server on a wire of its own, and stock clients around it. Needs root.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bootsvc_server::{
    Artifacts, Attachment, BootServer, Config, Counts, DhcpConfig, Intent, Lease, Mac, Offers,
    Scope, StartError, Witness,
};
use tempfile::TempDir;
use tests_rig::{Namespace, Process};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const LISTED: &str = "52:54:00:00:00:51";
pub const LISTED_ADDRESS: &str = "10.77.0.51";
pub const LONG: Duration = Duration::from_secs(60);

/// A wire with our server on it.
pub struct Lan {
    pub wire: Namespace,
    pub folder: TempDir,
    /// Where machines were, as it was told.
    pub attached: Arc<Attached>,
    running: Option<(Runtime, BootServer)>,
}

/// What a server told, in order.
#[derive(Default)]
pub struct Attached(pub Mutex<Vec<(Mac, Attachment)>>);

impl Witness for Attached {
    fn attached(&self, mac: Mac, attachment: &Attachment) {
        self.0.lock().unwrap().push((mac, attachment.clone()));
    }
}

pub fn bytes(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(next).collect()
}

impl Lan {
    pub fn new() -> Lan {
        Lan::with(&[("ingot.efi", 3000)], Intent::Loader)
    }

    pub fn with(files: &[(&str, usize)], intent: Intent) -> Lan {
        let wire = Namespace::with_bridge("10.77.0.1/24").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut lan = Lan { wire, folder, attached: Arc::default(), running: None };
        let mut artifacts = Artifacts::new();
        for (name, len) in files {
            artifacts.insert(name, bytes(*len));
        }
        lan.start(artifacts, intent).unwrap();
        lan
    }

    pub fn config(&self) -> Config {
        Config {
            interface: "br0".into(),
            dhcp: DhcpConfig {
                server: SERVER,
                scopes: vec![Scope {
                    subnet: "10.77.0.0/24".parse().unwrap(),
                    pool: Some([10, 77, 0, 100].into()..=[10, 77, 0, 199].into()),
                    router: None,
                    name_servers: vec![],
                }],
                machines: BTreeMap::from([(
                    LISTED.parse::<Mac>().unwrap(),
                    LISTED_ADDRESS.parse().unwrap(),
                )]),
                lease: Duration::from_secs(3600),
                offers: Offers {
                    http: "http://10.77.0.1:8080/boot".into(),
                    loader: "ingot.efi".into(),
                    bios_program: Some("undionly.kpxe".into()),
                    unmarked: BTreeSet::new(),
                },
            },
            leases: self.path("boot.sqlite"),
            server_url: "http://10.77.0.1:8080".into(),
            kernel_arguments: "console=ttyS0".into(),
            tftp: true,
            ra: true,
        }
    }

    pub fn start(&mut self, artifacts: Artifacts, intent: Intent) -> Result<(), StartError> {
        let (config, witness) = (self.config(), self.attached.clone());
        let started = self.wire.within(|| {
            let runtime = Runtime::new().unwrap();
            let server = runtime.block_on(async {
                let server =
                    BootServer::start(config, Arc::new(intent), witness, artifacts).await?;
                let router = server.router().into_make_service_with_connect_info::<SocketAddr>();
                let listener = TcpListener::bind((SERVER, 8080)).await.unwrap();
                tokio::spawn(async move { axum::serve(listener, router).await });
                Ok::<_, StartError>(server)
            });
            server.map(|server| (runtime, server))
        });
        self.running = Some(started.unwrap()?);
        Ok(())
    }

    /// Another server on the same wire.
    pub fn second(&self, config: Config) -> Result<BootServer, StartError> {
        let start = || {
            let runtime = Runtime::new().unwrap();
            let decide = Arc::new(Intent::Loader);
            runtime.block_on(BootServer::start(config, decide, Arc::new(()), Artifacts::new()))
        };
        self.wire.within(start).unwrap()
    }

    pub fn stop(&mut self) {
        let (runtime, server) = self.running.take().unwrap();
        runtime.block_on(server.stop());
    }

    pub fn counts(&self) -> Counts {
        self.running.as_ref().unwrap().1.counters().read()
    }

    pub fn leases(&self) -> Vec<Lease> {
        self.running.as_ref().unwrap().1.leases()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A computer with this card.
    pub fn machine(&self, mac: &str) -> Machine {
        let namespace = self.wire.neighbour(mac).unwrap();
        let folder = self.path(&mac.replace(':', "-"));
        fs::create_dir_all(&folder).unwrap();
        Machine { namespace, folder }
    }

    /// A computer that already has this address.
    pub fn machine_at(&self, mac: &str, address: &str) -> Machine {
        let machine = self.machine(mac);
        machine.run(&["ip", "address", "add", address, "dev", "eth0"]);
        machine
    }
}

/// One computer, as a namespace with `eth0`.
pub struct Machine {
    pub namespace: Namespace,
    pub folder: PathBuf,
}

/// What a client's script was told, by variable.
pub type Told = BTreeMap<String, String>;

const UDHCPC_SCRIPT: &str = "#!/bin/sh
case $1 in bound|renew) ;; *) exit 0 ;; esac
ip address flush dev $interface
ip address add $ip/$mask dev $interface
env > $OUT.new && mv $OUT.new $OUT
echo done $1
";

const DHCLIENT_SCRIPT: &str = "#!/bin/sh
case $reason in BOUND|REBOOT|RENEW) ;; *) exit 0 ;; esac
ip address flush dev $interface
ip address add $new_ip_address/24 dev $interface
env > $OUT.new && mv $OUT.new $OUT
";

impl Machine {
    pub fn run(&self, words: &[&str]) -> String {
        self.namespace.run(words).unwrap()
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn script(&self, text: &str) -> String {
        let path = self.path("script");
        fs::write(&path, text.replace("$OUT", &self.path("told"))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn udhcpc_command(&self, more: &[&str]) -> Command {
        let mut command = self.namespace.command("udhcpc");
        command.args(["-i", "eth0", "-f", "-s", &self.script(UDHCPC_SCRIPT)]).args(more);
        command
    }

    /// One exchange by `udhcpc`; `None` when nobody answers.
    pub fn udhcpc(&self, more: &[&str]) -> Option<Told> {
        let _ = fs::remove_file(self.path("told"));
        let mut command = self.udhcpc_command(&["-n", "-q", "-t", "4", "-T", "2"]);
        let output = command.args(more).output().unwrap();
        output.status.success().then(|| self.told())
    }

    /// One exchange by ISC `dhclient`.
    pub fn dhclient(&self, more: &[&str]) -> Told {
        let _ = fs::remove_file(self.path("told"));
        let mut command = self.namespace.command("dhclient");
        let (leases, pid) = (self.path("leases"), self.path("pid"));
        command.args(["-v", "-1", "-sf", &self.script(DHCLIENT_SCRIPT)]);
        command.args(["-cf", "/dev/null", "-lf", &leases, "-pf", &pid]).args(more).arg("eth0");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        self.told()
    }

    pub fn told(&self) -> Told {
        let text = fs::read_to_string(self.path("told")).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub fn spawn(&self, command: Command) -> Process {
        Process::spawn(command, Path::new(&self.path("log"))).unwrap()
    }
}

/// Waits until `done` holds; the wait is only as long as it must be.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
