//! What the server answers (RFC 2131 §4.3).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::config::{Config, ConfigError, Scope};
use super::leases::{Change, Lease, Table};
use super::packet::MessageKind;
use super::relay::Attachment;
use super::reply::Reply;
use super::request::Request;
use crate::{Intent, Mac, choose};

/// A DHCP server that is the authority on its networks: it refuses addresses
/// that it would not have given.
#[derive(Debug)]
pub struct Server {
    config: Config,
    table: Table,
}

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// To be recorded, in this order, before anything is sent.
    pub changes: Vec<Change>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Send this.
    Reply(Reply),
    /// The machine gave the address back.
    Released(Ipv4Addr),
    /// The machine found the address in use by somebody else.
    Declined(Ipv4Addr),
    /// Send nothing.
    Silent(Silence),
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// So it was decided.
    #[error("the machine is to be ignored")]
    Ignored,
    /// No or an unknown message type.
    #[error("the message has no DHCP message type that a client sends")]
    Kind,
    /// From a network that is not served.
    #[error("no subnet is configured for requests from {0}")]
    NoScope(Ipv4Addr),
    /// The client took the offer of another server.
    #[error("the client chose the DHCP server {0}: two servers answer on this network")]
    OtherServer(Ipv4Addr),
    /// There is no address for this machine.
    #[error("no address for it: it is not listed and the pool is full or absent")]
    NoAddress,
    /// It has no lease.
    #[error("the machine has no such lease")]
    NoLease,
}

impl Server {
    /// A server with the leases recorded so far. The changes say which of them
    /// the configuration no longer allows.
    pub fn new(
        config: Config,
        leases: impl IntoIterator<Item = Lease>,
    ) -> Result<(Server, Vec<Change>), ConfigError> {
        config.validate()?;
        let mut reserved: BTreeSet<Ipv4Addr> = config.machines.values().copied().collect();
        reserved.insert(config.server);
        let pools = config.scopes.iter().filter_map(|scope| scope.pool.as_ref());
        let mut table = Table::new(pools, &reserved);
        let mut dropped = Vec::new();
        for lease in leases {
            if config.machines.contains_key(&lease.mac) || !table.load(lease) {
                dropped.push(Change::Drop(lease.address));
            }
        }
        Ok((Server { config, table }, dropped))
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machine that has or last had `address`.
    pub fn machine(&self, address: Ipv4Addr) -> Option<Mac> {
        let listed = self.config.machines.iter().find(|(_, listed)| **listed == address);
        listed.map(|(mac, _)| *mac).or_else(|| self.table.machine(address))
    }

    /// All leases of the pools, ended ones too, by address.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.table.leases()
    }

    /// Answers `request` from a machine of which `intent` is wanted.
    pub fn handle(&mut self, now: Duration, request: &Request, intent: Intent) -> Answer {
        let mut changes = Vec::new();
        let outcome = self.outcome(now.as_secs(), request, intent, &mut changes);
        Answer { changes, outcome: outcome.unwrap_or_else(Outcome::Silent) }
    }

    fn outcome(
        &mut self,
        now: u64,
        request: &Request,
        intent: Intent,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, Silence> {
        let mac = request.client.mac;
        // What a machine gives back is taken, wanted or not.
        match request.kind {
            Some(MessageKind::Release) => {
                let address = request.packet.ciaddr;
                let ours = self.table.machine(address) == Some(mac);
                let released = if ours { self.table.release(now, mac, changes) } else { None };
                return released.map(Outcome::Released).ok_or(Silence::NoLease);
            }
            Some(MessageKind::Decline) => {
                let address = request.wanted().ok_or(Silence::NoLease)?;
                self.table.decline(now, mac, address, changes);
                return Ok(Outcome::Declined(address));
            }
            _ if intent == Intent::Ignore => return Err(Silence::Ignored),
            _ => {}
        }
        let scope = self.scope(request)?;
        let reply = match request.kind {
            Some(MessageKind::Discover) => self.discover(now, request, intent, scope, changes)?,
            Some(MessageKind::Request) => self.request(now, request, intent, scope, changes)?,
            Some(MessageKind::Inform) => self.grant(request, intent, scope, MessageKind::Ack, None),
            _ => return Err(Silence::Kind),
        };
        Ok(Outcome::Reply(reply))
    }

    fn discover(
        &mut self,
        now: u64,
        request: &Request,
        intent: Intent,
        scope: usize,
        changes: &mut Vec<Change>,
    ) -> Result<Reply, Silence> {
        let mac = request.client.mac;
        let address = match (self.listed(mac, scope), &self.config.scopes[scope].pool) {
            (Some(address), _) => Some(address),
            (None, Some(pool)) => self.table.offer(now, mac, pool, request.wanted(), changes),
            (None, None) => None,
        };
        let address = address.ok_or(Silence::NoAddress)?;
        Ok(self.grant(request, intent, scope, MessageKind::Offer, Some(address)))
    }

    fn request(
        &mut self,
        now: u64,
        request: &Request,
        intent: Intent,
        scope: usize,
        changes: &mut Vec<Change>,
    ) -> Result<Reply, Silence> {
        let mac = request.client.mac;
        if let Some(other) = request.server().filter(|server| *server != self.config.server) {
            self.table.release(now, mac, changes);
            return Err(Silence::OtherServer(other));
        }
        let Some(address) = request.wanted() else {
            return Ok(Reply::refuse(request, &self.config, "no address requested"));
        };
        match self.listed(mac, scope) {
            Some(listed) if listed == address => {}
            Some(_) => {
                return Ok(Reply::refuse(request, &self.config, "another address is configured"));
            }
            None if self.in_pool(now, mac, scope, address) => {
                let ends = now + self.config.lease.as_secs();
                self.table.commit(mac, address, ends, changes);
            }
            None => return Ok(Reply::refuse(request, &self.config, "address not available")),
        }
        Ok(self.grant(request, intent, scope, MessageKind::Ack, Some(address)))
    }

    fn grant(
        &self,
        request: &Request,
        intent: Intent,
        scope: usize,
        kind: MessageKind,
        address: Option<Ipv4Addr>,
    ) -> Reply {
        let boot = choose(&request.client, intent, &self.config.offers);
        Reply::grant(request, &self.config, &self.config.scopes[scope], kind, address, boot)
    }

    /// Where the sender of a request is, as far as that shows it.
    pub fn place(&self, request: &Request) -> Option<Attachment> {
        let scope = self.scope(request).ok()?;
        Attachment::of(request, self.config.scopes[scope].subnet)
    }

    /// The network that the client is on: that which the relay names, else that of
    /// the relay, else that of the address it has, else ours.
    fn scope(&self, request: &Request) -> Result<usize, Silence> {
        let given = |address: Ipv4Addr| (!address.is_unspecified()).then_some(address);
        if let Some(relay) = request.relay() {
            let link = request.relay_info().link.and_then(given).unwrap_or(relay);
            return self.config.scope_of(link).ok_or(Silence::NoScope(link));
        }
        let held = given(request.packet.ciaddr).and_then(|held| self.config.scope_of(held));
        let ours = self.config.server;
        held.or_else(|| self.config.scope_of(ours)).ok_or(Silence::NoScope(ours))
    }

    /// The address that is configured for `mac` in this network.
    fn listed(&self, mac: Mac, scope: usize) -> Option<Ipv4Addr> {
        let Scope { subnet, .. } = &self.config.scopes[scope];
        self.config.machines.get(&mac).copied().filter(|address| subnet.contains(address))
    }

    fn in_pool(&self, now: u64, mac: Mac, scope: usize, address: Ipv4Addr) -> bool {
        let pool = self.config.scopes[scope].pool.as_ref();
        pool.is_some_and(|pool| pool.contains(&address)) && self.table.is_free(now, mac, address)
    }
}
