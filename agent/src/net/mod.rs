//! Getting onto the network: all cards at once, the one that booted first.

pub mod dhcp;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use dhcp::{Answer, Client, Lease};
use socket2::{Domain, Protocol, Socket, Type};
use store_remote::Timing;

use crate::inventory::{Link, links, mac_text};
use crate::sys;

/// Longest time without a sign of life on the console.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long the card that booted may take longer than another one.
const GRACE: Duration = Duration::from_secs(4);
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a card is asked whether a cable is in. Carrier changes are only
/// told by netlink messages; looking is simpler and costs nothing here.
const LOOK: Duration = Duration::from_millis(50);

/// Why a card could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{what} {name} failed")]
pub struct NetError {
    what: &'static str,
    name: String,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str, name: &str) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError { what, name: name.to_owned(), source }
}

/// The card that the controller is reached through.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The card.
    pub link: Link,
    /// Its address.
    pub lease: Lease,
}

/// What bringing up the network needs.
pub struct Network {
    /// `/sys`
    pub sys: PathBuf,
    /// Hardware address of the card that the firmware booted from, if known.
    pub boot_mac: Option<String>,
    /// Base URL of the server to reach.
    pub server: String,
    /// Clock and chance.
    pub timing: Arc<dyn Timing>,
}

type Leased = (Link, Lease);

impl Network {
    /// Asks on every card with a cable until one has an address. Never gives up:
    /// without a network there is nothing else to do.
    pub fn bring_up(&self, say: &dyn Fn(&str)) -> Connected {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, leases) = channel();
        let mut asked = Vec::new();
        let mut offers: Vec<Leased> = Vec::new();
        let mut next_word = self.timing.now() + SAY_EVERY;
        let connected = loop {
            self.ask_new_cards(&mut asked, &sender, &stop, say);
            match leases.recv_timeout(Duration::from_millis(500)) {
                Ok(leased) => {
                    self.announce(&leased, say);
                    offers.push(leased);
                    self.await_preferred(&leases, &mut offers, say);
                    break self.take_best(&offers, say);
                }
                Err(RecvTimeoutError::Timeout) if self.timing.now() >= next_word => {
                    say(&self.why_not_yet());
                    next_word = self.timing.now() + SAY_EVERY;
                }
                Err(_) => {}
            }
        };
        stop.store(true, Ordering::Relaxed);
        connected
    }

    fn preferred(&self, link: &Link) -> bool {
        self.boot_mac.as_deref() == Some(mac_text(link.mac).as_str())
    }

    /// Drivers may still be finding cards, so new ones are looked for each time.
    fn ask_new_cards(
        &self,
        asked: &mut Vec<String>,
        sender: &Sender<Leased>,
        stop: &Arc<AtomicBool>,
        say: &dyn Fn(&str),
    ) {
        for link in links(&self.sys) {
            if asked.contains(&link.name) {
                continue;
            }
            asked.push(link.name.clone());
            if let Err(error) = up(&link.name) {
                say(&crate::report::chain(&error));
                continue;
            }
            let (sender, stop) = (sender.clone(), Arc::clone(stop));
            let (timing, sys) = (Arc::clone(&self.timing), self.sys.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if !has_carrier(&sys, &link.name) {
                        timing.sleep(LOOK);
                        continue;
                    }
                    let client = Client::discover(link.mac, timing.now(), timing.random());
                    if let Ok(Some(lease)) = lease(&link.name, client, &*timing, &stop) {
                        // Nobody listens any more where another card won.
                        let _ = sender.send((link, lease));
                        return;
                    }
                    timing.sleep(Duration::from_millis(500));
                }
            });
        }
    }

    /// Gives the card that booted a little more time than the others.
    fn await_preferred(
        &self,
        leases: &Receiver<Leased>,
        offers: &mut Vec<Leased>,
        say: &dyn Fn(&str),
    ) {
        let others = links(&self.sys);
        let coming = others.iter().any(|link| self.preferred(link) && link.up);
        let deadline = self.timing.now() + GRACE;
        while coming && !offers.iter().any(|(link, _)| self.preferred(link)) {
            let left = deadline.saturating_sub(self.timing.now());
            match leases.recv_timeout(left) {
                Ok(leased) => {
                    self.announce(&leased, say);
                    offers.push(leased);
                }
                Err(_) => return,
            }
        }
    }

    fn announce(&self, (link, lease): &Leased, say: &dyn Fn(&str)) {
        let server = lease.server.map(|server| format!(" from {server}")).unwrap_or_default();
        say(&format!("network: {} ({}) has {}{server}", link.name, mac_text(link.mac), lease.ip));
    }

    /// The first card, the one that booted before all others, through which the
    /// server answers; where it answers nobody, the first.
    fn take_best(&self, offers: &[Leased], say: &dyn Fn(&str)) -> Connected {
        let mut order: Vec<&Leased> = offers.iter().collect();
        order.sort_by_key(|(link, _)| !self.preferred(link));
        let mut first: Option<&Leased> = None;
        for leased @ (link, lease) in order {
            if let Err(error) = configure(&link.name, lease) {
                say(&crate::report::chain(&error));
                continue;
            }
            first = first.or(Some(leased));
            if reaches(&self.server) {
                return Connected { link: link.clone(), lease: lease.clone() };
            }
            say(&format!("network: {} does not answer through {}", self.server, link.name));
            if offers.len() > 1 {
                // Two cards with addresses in one subnet would confuse the routes.
                let nothing = Lease { ip: Ipv4Addr::UNSPECIFIED, router: None, ..lease.clone() };
                let _ = configure(&link.name, &nothing);
            }
        }
        let (link, lease) = first.unwrap_or(&offers[0]);
        let _ = configure(&link.name, lease);
        Connected { link: link.clone(), lease: lease.clone() }
    }

    fn why_not_yet(&self) -> String {
        let links = links(&self.sys);
        if links.is_empty() {
            return "network: no card found; does the boot artifact have its driver?".to_owned();
        }
        let state = |link: &Link| {
            let state = if link.up { "no DHCP answer yet" } else { "no link, check the cable" };
            format!("{} ({}): {state}", link.name, mac_text(link.mac))
        };
        format!("network: {}", links.iter().map(state).collect::<Vec<_>>().join("; "))
    }

    /// Keeps the lease for as long as the agent runs; runs in a thread of its own.
    pub fn keep(&self, connected: Connected, say: impl Fn(&str)) -> ! {
        let Connected { link, mut lease } = connected;
        let never = AtomicBool::new(false);
        loop {
            self.timing.sleep(lease.duration / 2);
            let (now, random) = (self.timing.now(), self.timing.random());
            let client = Client::confirm(link.mac, now, random, lease.clone());
            let renewed = match lease_of(&link.name, client, &*self.timing, &never) {
                Some(renewed) => renewed,
                None => continue,
            };
            if renewed.ip != lease.ip
                && let Err(error) = configure(&link.name, &renewed)
            {
                say(&crate::report::chain(&error));
            }
            lease = renewed;
        }
    }
}

fn lease_of(name: &str, client: Client, timing: &dyn Timing, stop: &AtomicBool) -> Option<Lease> {
    lease(name, client, timing, stop).ok().flatten()
}

/// Runs a client until it has a lease, or somebody says stop.
fn lease(
    name: &str,
    mut client: Client,
    timing: &dyn Timing,
    stop: &AtomicBool,
) -> io::Result<Option<Lease>> {
    let socket = dhcp_socket(name)?;
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let now = timing.now();
        if let Some(message) = client.poll(now, timing.random()) {
            // A cable that is pulled now is seen by the repeat.
            let _ = socket.send_to(&message, everybody);
        }
        let wait = client.next().saturating_sub(now).clamp(LOOK, Duration::from_secs(1));
        socket.set_read_timeout(Some(wait))?;
        if let Ok((length, _)) = socket.recv_from(&mut buffer)
            && let Answer::Leased(lease) = client.handle(&buffer[..length], timing.now())
        {
            return Ok(Some(lease));
        }
    }
    Ok(None)
}

/// A socket that talks through one card only, before that has an address.
fn dhcp_socket(name: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(name.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
    Ok(socket.into())
}

fn up(name: &str) -> Result<(), NetError> {
    let on = |socket: UdpSocket| sys::interface_up(socket.as_fd(), name);
    UdpSocket::bind("0.0.0.0:0").and_then(on).map_err(failed("switching on", name))
}

fn has_carrier(sys: &Path, name: &str) -> bool {
    let text = std::fs::read_to_string(sys.join("class/net").join(name).join("carrier"));
    text.is_ok_and(|text| text.trim() == "1")
}

fn configure(name: &str, lease: &Lease) -> Result<(), NetError> {
    let set = |socket: UdpSocket| {
        sys::interface_address(socket.as_fd(), name, lease.ip, lease.mask)?;
        match lease.router.map(|router| sys::default_route(socket.as_fd(), name, router)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    UdpSocket::bind("0.0.0.0:0").and_then(set).map_err(failed("setting the address of", name))
}

/// Whether the server takes a connection.
fn reaches(server: &str) -> bool {
    let host = server.trim_start_matches("http://");
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let addresses = with_port.to_socket_addrs().into_iter().flatten();
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, CONNECT).is_ok())
}
