//! What all parts of a running server share.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bootsvc_proto::dhcp::{self, Attachment};
use bootsvc_proto::{Client, Intent, LoopWatch, Mac};
use tracing::warn;

use crate::{Artifacts, Config, Counters, Decide, Witness};

/// How long a decision may take: clients ask again after about that.
const DECISION_TIME: Duration = Duration::from_secs(2);

pub(crate) struct Shared {
    pub config: Config,
    pub artifacts: Artifacts,
    pub counters: Arc<Counters>,
    pub clock: Clock,
    pub witness: Arc<dyn Witness>,
    decide: Arc<dyn Decide>,
    dhcp: Mutex<dhcp::Server>,
    watch: Mutex<LoopWatch>,
}

impl Shared {
    pub fn new(
        config: Config,
        artifacts: Artifacts,
        decide: Arc<dyn Decide>,
        witness: Arc<dyn Witness>,
        dhcp: dhcp::Server,
    ) -> Shared {
        Shared {
            config,
            artifacts,
            decide,
            witness,
            counters: Arc::default(),
            clock: Clock::start(),
            dhcp: Mutex::new(dhcp),
            watch: Mutex::default(),
        }
    }

    /// The leases. Held for microseconds, never while waiting.
    pub fn dhcp(&self) -> MutexGuard<'_, dhcp::Server> {
        self.dhcp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn decide(&self, client: &Client, place: Option<&Attachment>) -> Intent {
        let decision = tokio::time::timeout(DECISION_TIME, self.decide.decide(client, place));
        decision.await.unwrap_or_else(|_| {
            warn!(mac = %client.mac, "no boot decision in {DECISION_TIME:?}, machine not answered");
            Intent::Ignore
        })
    }

    /// The machine that has `address`, for logs.
    pub fn machine(&self, address: Ipv4Addr) -> Option<Mac> {
        self.dhcp().machine(address)
    }

    /// `mac` fetched a boot program: tell if it does so over and over.
    pub fn boot_program_fetched(&self, mac: Option<Mac>) {
        let Some(mac) = mac else { return };
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(looping) = watch.fetched(self.clock.now(), mac) {
            warn!(
                %mac,
                fetches = looping.fetches,
                "machine fetches its boot program over and over: the program does not start \
                 what follows; look at its console"
            );
        }
    }
}

/// Wall time that does not go backwards: read once, then counted on.
pub(crate) struct Clock {
    epoch: Duration,
    start: Instant,
}

impl Clock {
    fn start() -> Clock {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { epoch, start: Instant::now() }
    }

    /// Time since the Unix epoch.
    pub fn now(&self) -> Duration {
        self.epoch + self.start.elapsed()
    }

    /// The moment of `time` for timers.
    pub fn instant(&self, time: Duration) -> tokio::time::Instant {
        (self.start + time.saturating_sub(self.epoch)).into()
    }
}
