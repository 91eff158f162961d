//! A running server, from its settings to its end.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use bootsvc_proto::dhcp::{self, ConfigError, Lease};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::leases::{LeaseError, LeaseStore};
use crate::net::{Interface, SocketError};
use crate::shared::Shared;
use crate::{Artifacts, Counters, Decide, Witness, dhcp as dhcp_task, http, ra, tftp};

/// Settings of a [`BootServer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The only interface that is answered on.
    pub interface: String,
    /// Addresses and what to boot. Its `server` must be an address of `interface`.
    pub dhcp: dhcp::Config,
    /// SQLite file of the leases, made where absent.
    pub leases: PathBuf,
    /// URL that agents report to, passed on the kernel's command line.
    pub server_url: String,
    /// The kernel's command line for iPXE.
    pub kernel_arguments: String,
    /// Whether files are served over TFTP.
    pub tftp: bool,
    /// Whether iPXE is told that there is no IPv6 router, so that it does not
    /// wait for one.
    pub ra: bool,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings of DHCP contradict themselves.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no such interface.
    #[error("there is no network interface {interface:?}; there are: {}", known.join(", "))]
    NoInterface {
        /// The name.
        interface: String,
        /// Names of those that there are.
        known: Vec<String>,
    },
    /// The interface has another address.
    #[error(
        "interface {interface} does not have the address {address}: \
         `ip address add {address}/PREFIX dev {interface}` gives it that, or configure another"
    )]
    NoAddress {
        /// The interface.
        interface: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// A socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The leases cannot be read or written.
    #[error(transparent)]
    Leases(#[from] LeaseError),
}

/// A running server. Dropped, it stops; [`BootServer::stop`] also waits.
pub struct BootServer {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl BootServer {
    /// Starts answering. Returns once all sockets are open and all leases loaded.
    pub async fn start(
        config: Config,
        decide: Arc<dyn Decide>,
        witness: Arc<dyn Witness>,
        artifacts: Artifacts,
    ) -> Result<BootServer, StartError> {
        config.dhcp.validate()?;
        let interface = interface(&config)?;
        let mut store = LeaseStore::open(&config.leases).await?;
        let (dhcp, changes) = dhcp::Server::new(config.dhcp.clone(), store.load().await?)?;
        store.write(&changes).await?;

        let dhcp_socket = interface.dhcp_socket()?;
        let server = config.dhcp.server;
        let tftp_socket = config.tftp.then(|| interface.tftp_socket(server)).transpose()?;
        let (log, writer) = store.into_log();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        info!(
            interface = interface.name,
            address = %server,
            leases = dhcp.leases().count(),
            "network boot starts"
        );
        let ra = config.ra;
        let shared = Arc::new(Shared::new(config, artifacts, decide, witness, dhcp));
        tasks.spawn(writer);
        tasks.spawn(dhcp_task::run(Arc::clone(&shared), dhcp_socket, log, stop.clone()));
        if let Some(socket) = tftp_socket {
            tasks.spawn(tftp::run(Arc::clone(&shared), socket, interface.mtu, stop.clone()));
        }
        if ra {
            advertise(&shared, &interface, &tasks, &stop);
        }
        tasks.close();
        Ok(BootServer { shared, stop, tasks })
    }

    /// Boot files and scripts below `/boot/`, for the caller's HTTP server.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.shared))
    }

    /// What was done so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// All leases of the pools, ended ones too, by address.
    pub fn leases(&self) -> Vec<Lease> {
        self.shared.dhcp().leases().collect()
    }

    /// Stops answering, and waits until what is in work is finished and written.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        info!("network boot has stopped");
    }
}

impl Drop for BootServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn interface(config: &Config) -> Result<Interface, StartError> {
    let name = &config.interface;
    let interface = Interface::find(name)
        .map_err(|known| StartError::NoInterface { interface: name.clone(), known })?;
    let address = config.dhcp.server;
    if !interface.addresses.contains(&address) {
        return Err(StartError::NoAddress { interface: name.clone(), address });
    }
    Ok(interface)
}

/// Only a convenience: without IPv6 on the interface it is left out.
fn advertise(
    shared: &Arc<Shared>,
    interface: &Interface,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let Some(mac) = interface.mac else { return };
    match interface.icmpv6_socket() {
        Ok(socket) => {
            let task = ra::run(Arc::clone(shared), socket, interface.index, mac, stop.clone());
            tasks.spawn(task);
        }
        Err(error) => warn!(
            %error,
            cause = std::error::Error::source(&error).map(ToString::to_string),
            "no router advertisements: iPXE will wait some 13 seconds for them"
        ),
    }
}
