//! Starting and stopping the server with network boot, before any machine asks.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::support::Scene;

/// What `serve --check` finds.
fn check(scene: &Scene) -> Result<Value> {
    let config = scene.site.path("ingot.toml");
    scene.site.ingot_json(&["serve", "--check", "--config", &config.to_string_lossy()])
}

#[test]
fn a_check_finds_everything_in_place_and_leaves_it_free() -> Result<()> {
    let mut scene = Scene::new()?;
    let found = check(&scene)?;
    ensure!(found["interface"] == "br0" && found["network"] == "10.77.0.1/24", "{found:#}");
    ensure!(found["url"] == scene.site.url().as_str(), "{found:#}");
    ensure!(found["assets"] == scene.stock.assets.to_string_lossy().as_ref(), "{found:#}");

    scene.site.serve()?;
    let error = format!("{:#}", check(&scene).unwrap_err());
    ensure!(error.contains("another process has it"), "{error}");
    scene.site.stop_server()
}

#[test]
fn a_server_that_is_told_to_stop_stops_all_it_does() -> Result<()> {
    let mut scene = Scene::new()?;
    // What was left behind by the first would be in the second's way.
    for _ in 0..2 {
        scene.site.serve()?;
        let log = scene.site.server_log();
        scene.site.stop_server()?;
        let said = std::fs::read_to_string(log)?;
        for what in ["network boot starts", "network boot has stopped", "stopped whole=true"] {
            ensure!(said.contains(what), "no {what:?} in:\n{said}");
        }
    }
    Ok(())
}

#[test]
fn a_port_that_another_program_has_is_named_with_the_remedy() -> Result<()> {
    let scene = Scene::new()?;
    for (port, service) in [(67, "DHCP on br0"), (69, "TFTP on br0")] {
        let taken = scene.site.net.within(|| UdpSocket::bind(("0.0.0.0", port)))??;
        let error = format!("{:#}", check(&scene).unwrap_err());
        for what in [service, &format!("another program has UDP port {port}"), "ss -lunp"] {
            ensure!(error.contains(what), "no {what:?} in:\n{error}");
        }
        drop(taken);
    }
    check(&scene)?;
    Ok(())
}
