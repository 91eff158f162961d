//! Serves the given files to every machine on one interface, for trying out
//! firmware: `netboot INTERFACE ADDRESS/PREFIX NAME=FILE...`, as root.
//!
//! `loader` and `disk` as a third word choose what machines are told to boot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bootsvc_server::{Artifacts, BootServer, Config, DhcpConfig, Intent, Offers, Scope};
use ipnet::Ipv4Net;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::new("info,bootsvc_server=debug");
    tracing_subscriber::fmt().with_env_filter(filter).init();
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [interface, net, intent, files @ ..] = words.as_slice() else {
        anyhow::bail!("usage: netboot INTERFACE ADDRESS/PREFIX loader|disk NAME=FILE...");
    };
    let net: Ipv4Net = net.parse().context("ADDRESS/PREFIX")?;
    let mut artifacts = Artifacts::new();
    for file in files {
        let (name, path) = file.split_once('=').context("NAME=FILE")?;
        artifacts.insert(name, std::fs::read(path).with_context(|| path.to_owned())?);
    }
    let intent = if intent == "disk" { Intent::Disk } else { Intent::Loader };
    let config = config(interface, net, artifacts.get("undionly.kpxe").is_some());
    let server = BootServer::start(config, Arc::new(intent), Arc::new(()), artifacts).await?;
    let listener = tokio::net::TcpListener::bind((net.addr(), 8080)).await?;
    let router = server.router().into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    let counts = server.counters().read();
    server.stop().await;
    println!("{counts:#?}");
    Ok(())
}

fn config(interface: &str, net: Ipv4Net, undionly: bool) -> Config {
    let first = net.network().to_bits();
    let pool = first + 100..=first + 199;
    let url = format!("http://{}:8080", net.addr());
    Config {
        interface: interface.to_owned(),
        dhcp: DhcpConfig {
            server: net.addr(),
            scopes: vec![Scope {
                subnet: net.trunc(),
                pool: Some((*pool.start()).into()..=(*pool.end()).into()),
                router: None,
                name_servers: Vec::new(),
            }],
            machines: BTreeMap::new(),
            lease: Duration::from_secs(3600),
            offers: Offers {
                http: format!("{url}/boot"),
                loader: "ingot.efi".to_owned(),
                bios_program: undionly.then(|| "undionly.kpxe".to_owned()),
                unmarked: BTreeSet::new(),
            },
        },
        leases: std::env::temp_dir().join(format!("netboot-{}.sqlite", std::process::id())),
        server_url: url,
        kernel_arguments: "console=ttyS0,115200".to_owned(),
        tftp: true,
        ra: true,
    }
}
