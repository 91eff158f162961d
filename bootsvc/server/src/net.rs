//! Sockets that are bound to one interface, and the interface itself.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use bootsvc_proto::{Mac, dhcp, tftp};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Receive buffer asked for: enough for some hundred machines that start at once.
const RECEIVE_BUFFER_LEN: usize = 1 << 20;

/// All routers of a link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer {service} on {interface}: {advice}")]
pub struct SocketError {
    service: &'static str,
    interface: String,
    advice: String,
    #[source]
    source: io::Error,
}

/// The interface that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub index: u32,
    /// Absent where it has no Ethernet address.
    pub mac: Option<Mac>,
    pub addresses: Vec<Ipv4Addr>,
    /// Largest packet, in bytes.
    pub mtu: u16,
}

impl Interface {
    /// The interface `name`; the names of all interfaces where there is none.
    pub fn find(name: &str) -> Result<Interface, Vec<String>> {
        let all: Vec<_> = getifaddrs().map(Iterator::collect).unwrap_or_default();
        let Ok(index) = if_nametoindex(name) else {
            let mut names: Vec<_> = all.into_iter().map(|entry| entry.interface_name).collect();
            names.sort();
            names.dedup();
            return Err(names);
        };
        let ours = all.iter().filter(|entry| entry.interface_name == name);
        let ours: Vec<_> = ours.filter_map(|entry| entry.address).collect();
        let mac = ours.iter().find_map(|address| address.as_link_addr()?.addr()).map(Mac);
        let addresses = ours.iter().filter_map(|address| Some(address.as_sockaddr_in()?.ip()));
        Ok(Interface {
            name: name.to_owned(),
            index,
            mac: mac.filter(Mac::is_unicast),
            addresses: addresses.collect(),
            mtu: mtu(name),
        })
    }

    /// The DHCP server's socket: hears broadcasts, of this interface only.
    pub fn dhcp_socket(&self) -> Result<UdpSocket, SocketError> {
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dhcp::SERVER_PORT);
        self.udp(address, true).map_err(|source| self.error("DHCP", address.port(), source))
    }

    /// The TFTP server's socket.
    pub fn tftp_socket(&self, address: Ipv4Addr) -> Result<UdpSocket, SocketError> {
        let address = SocketAddrV4::new(address, tftp::PORT);
        self.udp(address, false).map_err(|source| self.error("TFTP", address.port(), source))
    }

    /// A socket for ICMPv6; the kernel fills in checksums. Tokio has no raw
    /// sockets, but its UDP socket only calls what works on any of datagrams.
    pub fn icmpv6_socket(&self) -> Result<UdpSocket, SocketError> {
        let open = || {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.bind_device(Some(self.name.as_bytes()))?;
            // Neighbour discovery is only believed with 255 (RFC 4861 §6.1).
            socket.set_multicast_hops_v6(255)?;
            socket.set_unicast_hops_v6(255)?;
            socket.set_multicast_loop_v6(false)?;
            socket.join_multicast_v6(&ALL_ROUTERS, self.index)?;
            asynchronous(socket)
        };
        open().map_err(|source| self.error("IPv6 router solicitations", 0, source))
    }

    /// The device is bound before the port, so that the same port of other
    /// interfaces is free for others. The port is not shared: a second server
    /// on this interface must be noticed, not take half of the requests.
    fn udp(&self, address: SocketAddrV4, broadcast: bool) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(self.name.as_bytes()))?;
        socket.set_broadcast(broadcast)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        socket.bind(&SocketAddr::V4(address).into())?;
        asynchronous(socket)
    }

    fn error(&self, service: &'static str, port: u16, source: io::Error) -> SocketError {
        let advice = match source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another program has UDP port {port}; `ss -lunp sport = :{port}` names it: \
                 stop it, or serve another interface"
            ),
            io::ErrorKind::PermissionDenied => "not permitted: run as root, or with the \
                 capabilities CAP_NET_BIND_SERVICE and CAP_NET_RAW"
                .to_owned(),
            io::ErrorKind::AddrNotAvailable => {
                "the interface does not have our address: give it that, or configure another"
                    .to_owned()
            }
            _ => "the socket could not be opened".to_owned(),
        };
        SocketError { service, interface: self.name.clone(), advice, source }
    }
}

fn asynchronous(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Ethernet's where it cannot be read.
fn mtu(name: &str) -> u16 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/mtu"));
    let mtu = text.ok().and_then(|text| text.trim().parse().ok());
    mtu.filter(|mtu| *mtu >= 576).unwrap_or(1500)
}

/// A receive that failed, such as while the link goes down, must not be tried
/// again at once for ever.
pub(crate) async fn retry_after(service: &'static str, error: &io::Error) {
    tracing::warn!(service, %error, "cannot receive, trying again");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
}
