//! Network boot: from the configuration and the boot assets to a running server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bootsvc_assets::{AssetsDir, CMDLINE, assemble};
use bootsvc_server::{
    Artifacts, BootServer, Config, Decide, DhcpConfig, Intent, Mac, Offers, Scope, StartError,
    Witness,
};
use controller::Controller;
use ipnet::Ipv4Net;

use super::attached::Reporter;
use super::glue::Decider;
use super::pool;
use crate::config::{Boot, Static};
use crate::exit::{Code, Failure};
use crate::render::human::size;

/// File of the leases in the state folder.
const LEASES: &str = "leases.db";
/// Name of the UEFI loader over TFTP and HTTP.
const LOADER: &str = "ingot.efi";
/// Largest program for BIOS firmware; those that exist have a tenth.
const NBP_BYTES_MAX: u64 = 4 << 20;

/// Settings and files of network boot, checked as far as possible without a socket.
pub struct Prepared {
    config: Config,
    artifacts: Artifacts,
}

/// Reads the assets, puts this server's URL into them, and checks the addresses.
pub fn prepare(
    boot: &Boot,
    assets: &Path,
    net: Ipv4Net,
    url: &str,
    folder: &Path,
) -> anyhow::Result<Prepared> {
    let mut artifacts = artifacts(assets, url)?;
    let bios_program = match &boot.nbp {
        Some(path) => Some(add_nbp(&mut artifacts, path)?),
        None => None,
    };
    let dhcp = DhcpConfig {
        server: net.addr(),
        scopes: vec![scope(boot, net)],
        machines: machines(&boot.machines)?,
        lease: Duration::from_secs(boot.lease_secs.into()),
        offers: Offers {
            http: format!("{url}/boot"),
            loader: LOADER.to_owned(),
            bios_program,
            unmarked: BTreeSet::new(),
        },
    };
    dhcp.validate().map_err(|error| mistake(&error))?;
    let config = Config {
        interface: boot.interface.clone(),
        dhcp,
        leases: folder.join(LEASES),
        server_url: url.to_owned(),
        kernel_arguments: CMDLINE.to_owned(),
        tftp: boot.tftp,
        ra: boot.ra,
    };
    Ok(Prepared { config, artifacts })
}

/// Starts answering machines as the controller decides.
pub async fn start(prepared: Prepared, controller: Arc<Controller>) -> anyhow::Result<BootServer> {
    let witness = Arc::new(Reporter(controller.clone()));
    begin(prepared, Arc::new(Decider(controller)), witness).await
}

/// Opens every socket, answers nobody, and closes them again.
pub async fn probe(prepared: Prepared) -> anyhow::Result<()> {
    begin(prepared, Arc::new(Intent::Ignore), Arc::new(())).await?.stop().await;
    Ok(())
}

async fn begin(
    prepared: Prepared,
    decide: Arc<dyn Decide>,
    witness: Arc<dyn Witness>,
) -> anyhow::Result<BootServer> {
    let Prepared { config, artifacts } = prepared;
    BootServer::start(config, decide, witness, artifacts).await.map_err(|error| match error {
        StartError::Config(error) => mistake(&error),
        other => anyhow::Error::new(other).context("cannot start network boot"),
    })
}

fn mistake(error: &impl std::fmt::Display) -> anyhow::Error {
    Failure::new(Code::Mistake, format!("[boot] cannot be served: {error}"))
        .next("correct [boot] in the configuration")
        .into()
}

fn artifacts(folder: &Path, url: &str) -> anyhow::Result<Artifacts> {
    let assets = AssetsDir::open(folder).with_context(|| {
        let what = format!("cannot use the boot assets in {}", folder.display());
        Failure::new(Code::NotFound, what)
            .next(format!("make them: ingot boot assets --out {} --agent FILE", folder.display()))
    })?;
    let agent = serde_json::json!({ "server": url }).to_string();
    let served = assemble(&assets, agent.as_bytes()).context("cannot assemble the boot files")?;
    let mut artifacts = Artifacts::new();
    artifacts.insert("vmlinuz", served.vmlinuz);
    artifacts.insert("initramfs.img", served.initramfs);
    artifacts.insert(LOADER, served.ingot_efi);
    Ok(artifacts)
}

/// Returns the name that it is served by.
fn add_nbp(artifacts: &mut Artifacts, path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        bail!("[boot] nbp {shown} does not name a file");
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(NBP_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| {
            Failure::new(Code::NotFound, format!("cannot read [boot] nbp {shown}")).next(
                "install the package ipxe, or remove nbp: only firmware without iPXE needs it",
            )
        })?;
    if bytes.len() as u64 > NBP_BYTES_MAX {
        bail!("[boot] nbp {shown} has more than {}: it is no boot program", size(NBP_BYTES_MAX));
    }
    artifacts.insert(name, bytes);
    Ok(name.to_owned())
}

fn scope(boot: &Boot, net: Ipv4Net) -> Scope {
    let taken: Vec<Ipv4Addr> = [Some(net.addr()), boot.router].into_iter().flatten().collect();
    Scope {
        subnet: net.trunc(),
        pool: pool::resolve(&boot.pool, net, &taken),
        router: boot.router,
        name_servers: boot.dns.clone(),
    }
}

fn machines(list: &[Static]) -> anyhow::Result<BTreeMap<Mac, Ipv4Addr>> {
    let mut machines = BTreeMap::new();
    for Static { mac, address } in list {
        let parsed = mac.parse::<Mac>().map_err(|error| mistake(&error))?;
        if machines.insert(parsed, *address).is_some() {
            return Err(mistake(&format!("{mac} has two [[boot.static]] sections")));
        }
    }
    Ok(machines)
}
