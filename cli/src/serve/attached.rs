//! Network boot tells the controller where machines are.

use std::sync::Arc;

use bootsvc_server::{Attachment, Mac, RelayId, Witness};
use controller::Controller;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Hands on what network boot sees.
pub struct Reporter(pub Arc<Controller>);

impl Witness for Reporter {
    fn attached(&self, mac: Mac, attachment: &Attachment) {
        self.0.attached(&mac.to_string(), shown(attachment), controller::system_clock());
    }
}

/// As people see it, and rules.
pub fn shown(Attachment { subnet, relay, info }: &Attachment) -> controller::Attachment {
    let id = |id: &Option<RelayId>| id.as_ref().map(ToString::to_string);
    controller::Attachment {
        subnet: subnet.to_string(),
        relay: relay.map(|relay| relay.to_string()),
        circuit_id: id(&info.circuit_id),
        remote_id: id(&info.remote_id),
        subscriber_id: id(&info.subscriber_id),
    }
}

/// Records what is told until the server stops.
pub async fn record(controller: Arc<Controller>, stop: CancellationToken) {
    stop.run_until_cancelled(controller.keep_attached()).await;
}

/// Records what was told last, once nobody is told any more.
pub async fn record_last(controller: &Controller) {
    if let Err(error) = controller.record_attached().await {
        let cause = wire::chain(&error);
        error!(cause, "where machines are was not recorded; they tell when they boot again");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bootsvc_server::RelayInfo;
    use controller::{Asking, BuildOptions, Db, Images, Policy, PolicyFile, SystemRandom};
    use wire::api::CheckIn;
    use wire::{Digest, Facts, Inventory, Nic, Order, Reference};

    use super::*;

    const POLICY: &str = r#"
[[rule]]
name = "rack 12"
when = '''
    network.relay == "10.0.9.1" and network.circuit-id == "ge-17"
    and network.remote-id == "0x00ff" and network.subnet == "10.0.9.0/24"
'''
hold = "here"
"#;

    /// A store without images, and nobody who builds them.
    struct Nothing;

    impl Images for Nothing {
        fn resolve<'a>(&'a self, _reference: &'a Reference) -> Asking<'a, Option<Digest>> {
            Box::pin(std::future::ready(Ok(None)))
        }

        fn name<'a>(&'a self, _: &'a Digest, _: &'a Reference) -> Asking<'a, bool> {
            Box::pin(std::future::ready(Ok(false)))
        }
    }

    impl controller::Builder for Nothing {
        fn plan(&self, _: &Path, _: &Facts) -> Result<Box<dyn controller::Plan>, String> {
            Err("nobody builds here".to_owned())
        }
    }

    async fn controller(folder: &Path, policy: &str) -> (Db, Arc<Controller>) {
        let db = Db::open(&folder.join("c.db")).await.unwrap();
        let policy = PolicyFile::fixed(Policy::parse(policy).unwrap());
        let (images, builder) = (Arc::new(Nothing), Arc::new(Nothing));
        let (random, options) = (Arc::new(SystemRandom), BuildOptions::default());
        let controller = Controller::new(db.clone(), policy, images, random, builder, options);
        (db, Arc::new(controller))
    }

    #[tokio::test]
    async fn what_network_boot_sees_of_a_machine_decides_about_it() {
        let folder = tempfile::tempdir().unwrap();
        let (db, controller) = controller(folder.path(), POLICY).await;
        let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let info = RelayInfo::decode(b"\x01\x05ge-17\x02\x02\x00\xff");
        let relay = Some([10, 0, 9, 1].into());
        let there = Attachment { subnet: "10.0.9.0/24".parse().unwrap(), relay, info };
        Reporter(controller.clone()).attached(mac, &there);

        let nic = Nic { name: "eth0".to_owned(), mac: mac.to_string(), ..Nic::default() };
        let inventory = Inventory { nics: vec![nic], ..Inventory::default() };
        let (version, answers) = (wire::api::VERSION, Default::default());
        let (boot, agent) = ("0".repeat(32), "1".to_owned());
        let asked = CheckIn { version, boot, agent, inventory, answers };
        let told = controller.check_in(&asked, 1).await.unwrap();
        let Order::Hold(hold) = told.order else { panic!("{told:?}") };
        assert_eq!(hold.reason, "here");
        db.close().await;
    }

    #[tokio::test]
    async fn what_is_told_is_recorded_without_being_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (db, controller) = controller(folder.path(), POLICY).await;
        let stop = CancellationToken::new();
        let recording = tokio::spawn(record(controller.clone(), stop.clone()));
        let subnet = "10.0.9.0/24".parse().unwrap();
        let there = Attachment { subnet, relay: None, info: RelayInfo::default() };
        Reporter(controller.clone()).attached(Mac([2, 0, 0, 0, 0, 1]), &there);
        while controller.metrics().attachments.get() == 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        recording.await.unwrap();
        record_last(&controller).await;
        db.close().await;
    }
}
