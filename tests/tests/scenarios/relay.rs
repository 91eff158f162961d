//! A switch port as a criterion: a relay passes on what a machine asks, and a rule names
//! the port.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dhcproto::v4::relay::{RelayAgentInformation, RelayInfo};
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode};
use dhcproto::{Decodable as _, Encodable as _};
use tests_rig::Namespace;
use wire::api::{CHECK_IN, CheckIn, CheckedIn, VERSION};
use wire::{Inventory, Nic, Order};

use crate::support::Scene;

const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 0, 1), 67);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// An address of the network that the machine is in.
const LINK: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x1a, 0x60, 0x90];

const RELAYED: &str = "\n[[boot.relayed]]\nsubnet = \"10.78.0.0/24\"\nrouter = \"10.78.0.1\"\n\
                       pool = \"10.78.0.100-10.78.0.199\"\n";

const POLICY: &str = r#"
[[rule]]
name = "rack 4"
when = 'network.circuit-id == "ge-0/0/17" and network.relay == "10.77.0.9"'
fail = "rack 4 is for nothing"

[[rule]]
name = "others"
fail = "not in rack 4"
"#;

/// What the relay passes on for a machine on one of its ports.
fn passed_on(kind: MessageType, port: &str, wanted: Option<Ipv4Addr>) -> Result<Vec<u8>> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, nobody, nobody, nobody, RELAY, &MAC);
    message.set_opcode(Opcode::BootRequest).set_flags(Flags::default()).set_hops(1);
    let mut info = RelayAgentInformation::default();
    info.insert(RelayInfo::AgentCircuitId(port.as_bytes().to_vec()));
    info.insert(RelayInfo::LinkSelection(LINK));
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    if let Some(wanted) = wanted {
        options.insert(DhcpOption::RequestedIpAddress(wanted));
    }
    options.insert(DhcpOption::RelayAgentInformation(info));
    Ok(message.to_vec()?)
}

/// A machine on this port of the relay gets an address.
fn lease(relay: &Namespace, port: &str) -> Result<Ipv4Addr> {
    let socket = relay.within(|| UdpSocket::bind((RELAY, 67)))??;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let ask = |kind, wanted| -> Result<Ipv4Addr> {
        socket.send_to(&passed_on(kind, port, wanted)?, SERVER)?;
        let mut answer = [0; 1500];
        let len = socket.recv(&mut answer).context("no answer to the relay")?;
        Ok(Message::from_bytes(&answer[..len])?.yiaddr())
    };
    let offered = ask(MessageType::Discover, None)?;
    ask(MessageType::Request, Some(offered))
}

/// What the machine with this hardware address is told.
fn check_in(scene: &Scene) -> Result<CheckedIn> {
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    let nics = vec![Nic { name: "eth0".into(), mac, ..Nic::default() }];
    let (boot, agent) = ("0123456789abcdef".repeat(2), "0.1.0".to_owned());
    let inventory = Inventory { nics, ..Inventory::default() };
    let asks = CheckIn { version: VERSION, boot, agent, inventory, answers: Default::default() };
    let url = format!("{}{CHECK_IN}", scene.site.url());
    let answer = scene.site.net.within(|| ureq::post(&url).send_json(&asks))?;
    Ok(answer?.body_mut().read_json()?)
}

#[test]
fn the_port_of_a_switch_decides_what_a_machine_gets() -> Result<()> {
    let mut scene = Scene::new()?;
    let config = scene.site.path("ingot.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, text + RELAYED)?;
    scene.site.policy(POLICY)?;
    scene.site.serve()?;
    let relay = scene.site.net.neighbour("52:54:00:00:00:99")?;
    relay.run(&["ip", "address", "add", &format!("{RELAY}/24"), "dev", "eth0"])?;

    for (port, reason) in [("ge-0/0/18", "not in rack 4"), ("ge-0/0/17", "rack 4 is for nothing")] {
        let address = lease(&relay, port)?;
        ensure!(address.octets()[..3] == LINK.octets()[..3], "{address} is of another network");
        let CheckedIn { machine, order } = check_in(&scene)?;
        let Order::Hold(hold) = &order else { anyhow::bail!("{order:?}") };
        ensure!(hold.reason.contains(reason), "on {port}: {hold:?}");
        let shown = scene.site.ingot_json(&["machine", "show", machine.as_str()])?;
        let facts = &shown["facts"];
        ensure!(facts["network.circuit-id"] == port, "{facts:#}");
        ensure!(facts["network.subnet"] == "10.78.0.0/24", "{facts:#}");
    }
    Ok(())
}
