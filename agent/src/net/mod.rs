//! Getting onto the network: all cards at once, the one that booted first.

pub mod dhcp;
pub mod held;
pub mod lldp;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dhcp::{Answer, Client, Lease};
use held::Held;
use socket2::{Domain, Protocol, Socket, Type};
use store_remote::Timing;

use crate::inventory::{Link, links, mac_text};
use crate::sys;

/// How long leases are waited for before new cards are looked for.
const TURN: Duration = Duration::from_millis(500);
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

/// A lease, and when it ends.
struct Offer {
    leased: Leased,
    until: Duration,
}

impl Network {
    /// Asks on every card with a cable until the server takes a connection through one
    /// of them. Never gives up: without the server there is nothing else to do.
    pub fn bring_up(&self, say: &dyn Fn(&str)) -> Connected {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, leases) = channel();
        let ask = |asked: &mut Vec<String>| self.ask_new_cards(asked, &sender, &stop, say);
        let connected = self.collect(&leases, &ask, &|leased| self.reaches(leased, say), say);
        stop.store(true, Ordering::Relaxed);
        connected
    }

    /// Gathers leases, and tries all there are after each new one and once in a while.
    fn collect(
        &self,
        leases: &Receiver<Leased>,
        ask: &dyn Fn(&mut Vec<String>),
        reaches: &dyn Fn(&Leased) -> bool,
        say: &dyn Fn(&str),
    ) -> Connected {
        let mut asked = Vec::new();
        let mut offers: Vec<Offer> = Vec::new();
        let mut next_word = self.timing.now() + SAY_EVERY;
        loop {
            ask(&mut asked);
            let news = match leases.recv_timeout(TURN) {
                Ok(leased) => {
                    self.offered(leased, &mut offers, say);
                    self.await_preferred(leases, &mut offers, say);
                    true
                }
                Err(_) => false,
            };
            let now = self.timing.now();
            if !news && now < next_word {
                continue;
            }
            if offers.is_empty() {
                say(&self.why_not_yet());
            }
            // Whose address was given back is asked again.
            offers.retain(|offer| {
                let valid = now < offer.until;
                if !valid {
                    asked.retain(|name| *name != offer.leased.0.name);
                }
                valid
            });
            // The card that booted before all others.
            offers.sort_by_key(|offer| !self.preferred(&offer.leased.0));
            if let Some(Offer { leased: (link, lease), .. }) =
                offers.iter().find(|offer| reaches(&offer.leased))
            {
                return Connected { link: link.clone(), lease: lease.clone() };
            }
            next_word = self.timing.now() + SAY_EVERY;
        }
    }

    fn offered(&self, leased: Leased, offers: &mut Vec<Offer>, say: &dyn Fn(&str)) {
        self.announce(&leased, say);
        let until = self.timing.now() + leased.1.duration;
        offers.push(Offer { leased, until });
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
                say(&wire::chain(&error));
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
        offers: &mut Vec<Offer>,
        say: &dyn Fn(&str),
    ) {
        let others = links(&self.sys);
        let coming = others.iter().any(|link| self.preferred(link) && link.up);
        let deadline = self.timing.now() + GRACE;
        while coming && !offers.iter().any(|offer| self.preferred(&offer.leased.0)) {
            let left = deadline.saturating_sub(self.timing.now());
            match leases.recv_timeout(left) {
                Ok(leased) => self.offered(leased, offers, say),
                Err(_) => return,
            }
        }
    }

    fn announce(&self, (link, lease): &Leased, say: &dyn Fn(&str)) {
        let server = lease.server.map(|server| format!(" from {server}")).unwrap_or_default();
        say(&format!("network: {} ({}) has {}{server}", link.name, mac_text(link.mac), lease.ip));
    }

    /// Gives a card its address and sees whether the server answers through it.
    fn reaches(&self, (link, lease): &Leased, say: &dyn Fn(&str)) -> bool {
        if let Err(error) = configure(&link.name, lease) {
            say(&wire::chain(&error));
            return false;
        }
        if reaches(&self.server) {
            return true;
        }
        say(&format!("network: {} does not answer through {}; trying on", self.server, link.name));
        // Two cards with addresses in one subnet would confuse the routes.
        let nothing = Lease { ip: Ipv4Addr::UNSPECIFIED, router: None, ..lease.clone() };
        let _ = configure(&link.name, &nothing);
        false
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

    /// Keeps the lease for as long as the agent runs, and notes what it is each time; runs in
    /// a thread of its own.
    pub fn keep(&self, connected: Connected, held: &Held, say: impl Fn(&str)) -> ! {
        let Connected { link, mut lease } = connected;
        let never = AtomicBool::new(false);
        let confirm = |old: &Lease| {
            let (now, random) = (self.timing.now(), self.timing.random());
            let client = Client::confirm(link.mac, now, random, old.clone());
            self::lease(&link.name, client, &*self.timing, &never).ok().flatten()
        };
        let configure = |lease: &Lease| configure(&link.name, lease);
        loop {
            lease = self.renew(lease, held, &confirm, &configure, &say);
        }
    }

    /// Waits for the time to renew a lease, and gives what there is then.
    fn renew(
        &self,
        lease: Lease,
        held: &Held,
        confirm: &dyn Fn(&Lease) -> Option<Lease>,
        configure: &dyn Fn(&Lease) -> Result<(), NetError>,
        say: &dyn Fn(&str),
    ) -> Lease {
        self.timing.sleep(lease.duration / 2);
        let Some(renewed) = confirm(&lease) else { return lease };
        if renewed.ip != lease.ip
            && let Err(error) = configure(&renewed)
        {
            // The card has the old one, and the next time it is tried again.
            say(&wire::chain(&error));
            return lease;
        }
        held.set(renewed.clone());
        renewed
    }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use store_remote::SystemTiming;

    use super::*;
    use crate::inventory::{self, Reached, Roots};
    use crate::testing::FastTiming;

    fn network(timing: impl Timing + 'static) -> Network {
        Network {
            sys: "/nonexistent".into(),
            boot_mac: None,
            server: "http://10.0.0.1".into(),
            timing: Arc::new(timing),
        }
    }

    fn lease(ip: [u8; 4]) -> Lease {
        Lease {
            ip: ip.into(),
            mask: Ipv4Addr::new(255, 255, 255, 0),
            router: None,
            server: None,
            resolvers: Vec::new(),
            relay: None,
            duration: Duration::from_secs(600),
        }
    }

    #[test]
    fn a_lease_without_the_server_does_not_end_the_search() {
        let network = network(SystemTiming::default());
        let (sender, leases) = channel();
        let leased = |name: &str, last: u8| {
            let link = Link { name: name.into(), mac: [2, 0, 0, 0, 0, last], up: true };
            (link, lease([10, 0, 0, last]))
        };
        sender.send(leased("eth0", 1)).unwrap();
        let tried = RefCell::new(Vec::new());
        let reaches = |(link, _): &Leased| {
            tried.borrow_mut().push(link.name.clone());
            if tried.borrow().len() == 1 {
                // The other card is slower.
                sender.send(leased("eth1", 2)).unwrap();
            }
            link.name == "eth1"
        };
        let connected = network.collect(&leases, &|_| {}, &reaches, &|_| {});
        assert_eq!(connected.link.name, "eth1");
        assert_eq!(*tried.borrow(), ["eth0", "eth0", "eth1"], "the first is tried again too");
    }

    #[test]
    fn a_lease_that_is_renewed_in_another_subnet_changes_the_next_inventory() {
        let nowhere = PathBuf::from("/nonexistent");
        let roots = Roots { sys: nowhere.clone(), proc: nowhere.clone(), dev: nowhere };
        let network = network(FastTiming::default());
        let first = lease([10, 0, 0, 9]);
        let reached = Reached { lease: Held::of(first.clone()), ..Reached::default() };
        let subnet = || inventory::read(&roots, &reached).network.subnet;
        assert_eq!(subnet().as_deref(), Some("10.0.0.0/24"));
        let configured = RefCell::new(Vec::new());
        let configure = |lease: &Lease| {
            configured.borrow_mut().push(lease.ip);
            Ok(())
        };
        let renew = |old, renewed: Option<Lease>| {
            network.renew(old, &reached.lease, &|_| renewed.clone(), &configure, &|_| {})
        };
        assert_eq!(renew(first.clone(), None), first, "nobody answered");
        assert_eq!(subnet().as_deref(), Some("10.0.0.0/24"));
        let relayed = Lease { relay: Some([10, 7, 0, 1].into()), ..lease([10, 7, 0, 9]) };
        assert_eq!(renew(first, Some(relayed.clone())), relayed);
        assert_eq!(*configured.borrow(), [relayed.ip]);
        let now = inventory::read(&roots, &reached).network;
        assert_eq!(now.subnet.as_deref(), Some("10.7.0.0/24"));
        assert_eq!(now.relay.as_deref(), Some("10.7.0.1"));
    }
}
