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
use crate::config::{Boot, Pool, Relayed, Static};
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
        scopes: scopes(boot, net),
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

/// Our own network, and those behind relays.
fn scopes(boot: &Boot, net: Ipv4Net) -> Vec<Scope> {
    let ours = scope(net, &boot.pool, boot.router, Some(net.addr()), &boot.dns);
    let relayed = |relayed: &Relayed| {
        let Relayed { subnet, pool, router, dns } = relayed;
        scope(*subnet, pool, Some(*router), None, dns)
    };
    std::iter::once(ours).chain(boot.relayed.iter().map(relayed)).collect()
}

fn scope(
    net: Ipv4Net,
    pool: &Pool,
    router: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    dns: &[Ipv4Addr],
) -> Scope {
    let taken: Vec<Ipv4Addr> = [server, router].into_iter().flatten().collect();
    let pool = pool::resolve(pool, net, &taken);
    Scope { subnet: net.trunc(), pool, router, name_servers: dns.to_vec() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_behind_relays_have_pools_and_routers_of_their_own() {
        let text = "[boot]\ninterface = \"eth1\"\n\
                    [[boot.relayed]]\nsubnet = \"10.0.12.0/24\"\nrouter = \"10.0.12.1\"\n\
                    dns = [\"10.0.0.53\"]\npool = \"10.0.12.100-10.0.12.199\"\n\
                    [[boot.relayed]]\nsubnet = \"10.0.13.0/24\"\nrouter = \"10.0.13.254\"\n\
                    pool = \"none\"\n";
        let boot = crate::config::parse(text, "x").unwrap().boot.unwrap();
        let scopes = scopes(&boot, "10.0.0.1/24".parse().unwrap());
        let shown = scopes.iter().map(|scope| {
            let pool = scope.pool.as_ref().map(|pool| format!("{}-{}", pool.start(), pool.end()));
            let router = scope.router.map(|router| router.to_string());
            (scope.subnet.to_string(), pool.unwrap_or_default(), router.unwrap_or_default())
        });
        let expected = [
            ("10.0.0.0/24", "10.0.0.2-10.0.0.254", ""),
            ("10.0.12.0/24", "10.0.12.100-10.0.12.199", "10.0.12.1"),
            ("10.0.13.0/24", "", "10.0.13.254"),
        ];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert!(shown.eq(expected), "{scopes:?}");
        assert_eq!(scopes[1].name_servers, [Ipv4Addr::new(10, 0, 0, 53)]);
    }
}
