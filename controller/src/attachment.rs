//! Where in the network a card is, as the DHCP server saw it.

use wire::{FactValue, Facts};

/// Most cards of no machine on record of which that is kept: a machine has time
/// to check in after it got an address, and hardware addresses that somebody
/// made up fill no disk. Those of machines on record are kept beside these.
pub const UNKNOWN_MAX: u32 = 32_768;

/// Where a card was given an address. All texts are shown as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The network that the address is of: `10.0.2.0/24`.
    pub subnet: String,
    /// The relay that its request came through.
    pub relay: Option<String>,
    /// The port that it is on, as the relay calls it.
    pub circuit_id: Option<String>,
    /// What that calls itself.
    pub remote_id: Option<String>,
    /// Whom the port belongs to.
    pub subscriber_id: Option<String>,
}

impl Attachment {
    /// Puts it in place of what the machine reported of a lease, which may have
    /// been that of another card.
    pub(crate) fn add_facts(&self, facts: &mut Facts) {
        let Attachment { subnet, relay, circuit_id, remote_id, subscriber_id } = self;
        let seen = [
            ("network.subnet", Some(subnet)),
            ("network.relay", relay.as_ref()),
            ("network.circuit-id", circuit_id.as_ref()),
            ("network.remote-id", remote_id.as_ref()),
            ("network.subscriber-id", subscriber_id.as_ref()),
        ];
        for (path, value) in seen {
            facts.remove(path);
            facts.extend(value.map(|value| (path.to_owned(), FactValue::Text(value.clone()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::expr::SERVER_FACTS;

    use super::*;

    fn facts(attachment: &Attachment) -> Facts {
        let text = |text: &str| FactValue::Text(text.to_owned());
        let mut facts = Facts::from([
            ("network.subnet".to_owned(), text("10.9.0.0/24")),
            ("network.relay".to_owned(), text("10.9.0.1")),
            ("network.dhcp-server".to_owned(), text("10.9.0.2")),
        ]);
        attachment.add_facts(&mut facts);
        facts
    }

    #[test]
    fn everything_that_the_server_adds_is_a_fact_that_rules_know() {
        let some = || Some("x".to_owned());
        let facts = facts(&Attachment {
            subnet: "10.0.0.0/24".to_owned(),
            relay: some(),
            circuit_id: some(),
            remote_id: some(),
            subscriber_id: some(),
        });
        for (path, _) in SERVER_FACTS {
            assert_eq!(facts[path].to_string(), "\"x\"", "{path}");
        }
        assert_eq!(facts.len(), SERVER_FACTS.len() + 3);
        assert!(facts.keys().all(|path| wire::expr::known(path).is_ok()), "{facts:?}");
    }

    #[test]
    fn a_relay_that_was_not_seen_is_not_left_over_from_another_lease() {
        let facts = facts(&Attachment {
            subnet: "10.0.0.0/24".to_owned(),
            relay: None,
            circuit_id: None,
            remote_id: None,
            subscriber_id: None,
        });
        assert_eq!(facts["network.subnet"].to_string(), "\"10.0.0.0/24\"");
        assert_eq!(facts.get("network.relay"), None);
        assert_eq!(facts["network.dhcp-server"].to_string(), "\"10.9.0.2\"");
    }
}
