//! A DHCP client without sockets and clock (RFC 2131): what to send and when,
//! and what an answer means.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};
use wire::Network;

/// An address, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
    /// Mask of its subnet.
    pub mask: Ipv4Addr,
    /// Way out of the subnet.
    pub router: Option<Ipv4Addr>,
    /// The server that gave it.
    pub server: Option<Ipv4Addr>,
    /// Name servers.
    pub resolvers: Vec<Ipv4Addr>,
    /// The relay that the answer came through.
    pub relay: Option<Ipv4Addr>,
    /// How long it is ours.
    pub duration: Duration,
}

impl Lease {
    /// Where in the network a machine with this lease is.
    pub fn network(&self) -> Network {
        let bits = u32::from(self.mask);
        let subnet = Ipv4Addr::from(u32::from(self.ip) & bits);
        Network {
            subnet: Some(format!("{subnet}/{}", bits.leading_ones())),
            relay: self.relay.map(|relay| relay.to_string()),
            dhcp_server: self.server.map(|server| server.to_string()),
        }
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, or it is not for us: go on.
    Nothing,
    /// The lease is ours.
    Leased(Lease),
    /// The server took an earlier lease back; the client starts afresh.
    Refused,
}

/// One client on one network card.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    transaction: u32,
    started: Duration,
    state: State,
    /// When to send next.
    next: Duration,
    /// Messages sent in this state.
    sent: u32,
}

#[derive(Debug)]
enum State {
    Selecting,
    Requesting(Lease),
    /// After a restart, or to prolong: is this one still mine?
    Confirming(Lease),
}

/// Waits between repeats, in milliseconds, and a random second less or more.
const WAITS_MS: [u64; 4] = [1500, 3000, 5000, 8000];
/// Repeats of a request before the client starts afresh.
const REQUESTS_MAX: u32 = 4;
/// Taken where a server does not say: an hour.
const DURATION_DEFAULT: Duration = Duration::from_secs(3600);
/// Least lease that is believed, so that renewing does not become a storm.
const DURATION_MIN: Duration = Duration::from_secs(60);

/// Subnet mask, router, name servers, server, times (RFC 2132).
const PARAMETERS: [u8; 7] = [1, 3, 6, 54, 51, 58, 59];
const VENDOR_CLASS: DhcpOption<'static> = DhcpOption { kind: 60, data: b"ingot-agent" };

impl Client {
    /// A client that looks for any lease. `random` names the transaction.
    pub fn discover(mac: [u8; 6], now: Duration, random: u64) -> Client {
        Client::start(mac, now, random, State::Selecting)
    }

    /// A client that wants to keep a lease.
    pub fn confirm(mac: [u8; 6], now: Duration, random: u64, lease: Lease) -> Client {
        Client::start(mac, now, random, State::Confirming(lease))
    }

    fn start(mac: [u8; 6], now: Duration, random: u64, state: State) -> Client {
        let [a, b, c, d, ..] = random.to_le_bytes();
        let transaction = u32::from_le_bytes([a, b, c, d]);
        Client { mac, transaction, started: now, state, next: now, sent: 0 }
    }

    /// When [`Client::poll`] has something to send.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// A message to broadcast, where it is time for one.
    pub fn poll(&mut self, now: Duration, random: u64) -> Option<Vec<u8>> {
        if now < self.next {
            return None;
        }
        if self.sent >= REQUESTS_MAX && !matches!(self.state, State::Selecting) {
            self.state = State::Selecting;
            self.sent = 0;
        }
        let index = usize::try_from(self.sent).unwrap_or(usize::MAX).min(WAITS_MS.len() - 1);
        self.next = now + Duration::from_millis(WAITS_MS[index] - 500 + random % 1000);
        self.sent = self.sent.saturating_add(1);
        self.message(now)
    }

    fn message(&self, now: Duration) -> Option<Vec<u8>> {
        let (message_type, requested_ip, server_identifier) = match &self.state {
            State::Selecting => (DhcpMessageType::Discover, None, None),
            State::Requesting(lease) => (DhcpMessageType::Request, Some(lease.ip), lease.server),
            State::Confirming(lease) => (DhcpMessageType::Request, Some(lease.ip), None),
        };
        let nobody = Ipv4Addr::UNSPECIFIED;
        let message = DhcpRepr {
            message_type,
            transaction_id: self.transaction,
            secs: u16::try_from(now.saturating_sub(self.started).as_secs()).unwrap_or(u16::MAX),
            client_hardware_address: EthernetAddress(self.mac),
            client_ip: nobody,
            your_ip: nobody,
            server_ip: nobody,
            router: None,
            subnet_mask: None,
            relay_agent_ip: nobody,
            // There is no address yet that an answer could be sent to.
            broadcast: true,
            requested_ip,
            client_identifier: Some(EthernetAddress(self.mac)),
            server_identifier,
            parameter_request_list: Some(&PARAMETERS),
            dns_servers: None,
            max_size: Some(1472),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[VENDOR_CLASS],
        };
        let mut bytes = vec![0; message.buffer_len()];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes);
        message.emit(&mut packet).ok()?;
        Some(bytes)
    }

    /// Takes a message that came in.
    pub fn handle(&mut self, bytes: &[u8], now: Duration) -> Answer {
        let Some((kind, lease)) = self.parse(bytes) else { return Answer::Nothing };
        match (kind, &self.state) {
            (DhcpMessageType::Offer, State::Selecting) if lease.server.is_some() => {
                self.enter(State::Requesting(lease), now);
                Answer::Nothing
            }
            (DhcpMessageType::Ack, State::Requesting(wanted) | State::Confirming(wanted))
                if wanted.ip == lease.ip =>
            {
                Answer::Leased(lease)
            }
            (DhcpMessageType::Nak, State::Requesting(_) | State::Confirming(_)) => {
                self.enter(State::Selecting, now);
                Answer::Refused
            }
            _ => Answer::Nothing,
        }
    }

    fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.sent = 0;
        self.next = now;
    }

    fn parse(&self, bytes: &[u8]) -> Option<(DhcpMessageType, Lease)> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let message = DhcpRepr::parse(&packet).ok()?;
        let ours = message.transaction_id == self.transaction
            && message.client_hardware_address == EthernetAddress(self.mac);
        let refused = message.message_type == DhcpMessageType::Nak;
        let duration = message.lease_duration.map(|secs| Duration::from_secs(secs.into()));
        let lease = Lease {
            ip: message.your_ip,
            mask: message.subnet_mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
            router: message.router.filter(|router| !router.is_unspecified()),
            server: message.server_identifier,
            resolvers: message.dns_servers.iter().flatten().copied().collect(),
            relay: Some(message.relay_agent_ip).filter(|relay| !relay.is_unspecified()),
            duration: duration.unwrap_or(DURATION_DEFAULT).max(DURATION_MIN),
        };
        let usable = !lease.ip.is_unspecified() && !lease.ip.is_broadcast();
        (ours && (usable || refused)).then_some((message.message_type, lease))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn read(bytes: &[u8]) -> (DhcpMessageType, Option<Ipv4Addr>, Option<Ipv4Addr>) {
        let packet = DhcpPacket::new_checked(bytes).unwrap();
        let message = DhcpRepr::parse(&packet).unwrap();
        assert!(message.broadcast);
        (message.message_type, message.requested_ip, message.server_identifier)
    }

    fn reply(kind: DhcpMessageType, transaction: u32, last: u8) -> Vec<u8> {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let message = DhcpRepr {
            message_type: kind,
            transaction_id: transaction,
            secs: 0,
            client_hardware_address: EthernetAddress(MAC),
            client_ip: nobody,
            your_ip: Ipv4Addr::new(10, 0, 0, last),
            server_ip: nobody,
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            subnet_mask: Some(Ipv4Addr::new(255, 255, 0, 0)),
            relay_agent_ip: Ipv4Addr::new(10, 0, 9, 1),
            broadcast: true,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(Ipv4Addr::new(10, 0, 0, 2)),
            parameter_request_list: None,
            dns_servers: Some([Ipv4Addr::new(10, 0, 0, 3)].into_iter().collect()),
            max_size: None,
            lease_duration: Some(7200),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn discovers_requests_and_leases() {
        let start = Duration::from_secs(3);
        let mut client = Client::discover(MAC, start, 7);
        assert_eq!(read(&client.poll(start, 0).unwrap()), (DhcpMessageType::Discover, None, None));
        assert_eq!(client.poll(start, 0), None, "not before it is time to repeat");
        assert!(client.poll(client.next(), 0).is_some());

        assert_eq!(client.handle(&reply(DhcpMessageType::Offer, 8, 9), start), Answer::Nothing);
        assert_eq!(client.handle(&reply(DhcpMessageType::Ack, 7, 9), start), Answer::Nothing);
        assert!(client.poll(start, 0).is_none(), "another's offer changes nothing");
        assert_eq!(client.handle(&reply(DhcpMessageType::Offer, 7, 9), start), Answer::Nothing);
        let (ip, server) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 2));
        let request = (DhcpMessageType::Request, Some(ip), Some(server));
        assert_eq!(read(&client.poll(start, 0).unwrap()), request);
        let lease = Lease {
            ip,
            mask: Ipv4Addr::new(255, 255, 0, 0),
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            server: Some(server),
            resolvers: vec![Ipv4Addr::new(10, 0, 0, 3)],
            relay: Some(Ipv4Addr::new(10, 0, 9, 1)),
            duration: Duration::from_secs(7200),
        };
        let place = Network {
            subnet: Some("10.0.0.0/16".into()),
            relay: Some("10.0.9.1".into()),
            dhcp_server: Some("10.0.0.2".into()),
        };
        assert_eq!(lease.network(), place);
        let ack = reply(DhcpMessageType::Ack, 7, 9);
        assert_eq!(client.handle(&ack, start), Answer::Leased(lease));
    }

    #[test]
    fn a_silent_or_refusing_server_makes_it_start_afresh() {
        let now = Duration::ZERO;
        let lease = Lease {
            ip: Ipv4Addr::new(10, 0, 0, 9),
            mask: Ipv4Addr::BROADCAST,
            router: None,
            server: None,
            resolvers: Vec::new(),
            relay: None,
            duration: DURATION_MIN,
        };
        let mut client = Client::confirm(MAC, now, 7, lease.clone());
        for _ in 0..REQUESTS_MAX {
            let (kind, ip, server) = read(&client.poll(client.next(), 0).unwrap());
            assert_eq!((kind, ip, server), (DhcpMessageType::Request, Some(lease.ip), None));
        }
        assert_eq!(read(&client.poll(client.next(), 0).unwrap()).0, DhcpMessageType::Discover);
        let mut client = Client::confirm(MAC, now, 7, lease);
        assert_eq!(client.handle(&reply(DhcpMessageType::Nak, 7, 0), now), Answer::Refused);
        assert_eq!(read(&client.poll(now, 0).unwrap()).0, DhcpMessageType::Discover);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..400) {
            let mut client = Client::discover(MAC, Duration::ZERO, 7);
            client.handle(&bytes, Duration::ZERO);
            let mut offer = reply(DhcpMessageType::Offer, 7, 9);
            offer.truncate(cut);
            client.handle(&offer, Duration::ZERO);
            let mut offer = reply(DhcpMessageType::Offer, 7, 9);
            offer.splice(240.., bytes);
            client.handle(&offer, Duration::ZERO);
        }
    }
}
