//! Where machines are in the network: taken from the DHCP server at once, and
//! recorded beside it, so that it waits for no database and fails with none.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use wire::Inventory;
use wire::admin::UnixMs;

use super::{Controller, ControllerError};
use crate::attachment::{Attachment, UNKNOWN_MAX};
use crate::db::attachment::{self, Seen};
use crate::identity;

/// Most cards that wait to be recorded. What is told of more is dropped: they
/// ask for an address again.
const WAITING_MAX: usize = 1024;

/// How long a card that stays where it is need not be recorded again. Which of a
/// machine's cards was seen last may be behind for as long.
const SAME_MS: u64 = 60_000;

/// After how many records it is looked for cards that no machine has.
const FORGET_AFTER: usize = 1024;

/// How long to wait where the database fails.
const RETRY: Duration = Duration::from_secs(1);

/// What was told and is not recorded yet.
#[derive(Debug)]
pub(super) struct Attached {
    waiting: Mutex<Seen>,
    told: Notify,
    /// Taken by whoever records: how many were since it was looked for cards
    /// that no machine has.
    recorded: tokio::sync::Mutex<usize>,
}

impl Default for Attached {
    fn default() -> Attached {
        // Looks at the first record: an earlier process may have left too many.
        let recorded = tokio::sync::Mutex::new(FORGET_AFTER);
        Attached { waiting: Mutex::default(), told: Notify::new(), recorded }
    }
}

impl Attached {
    fn waiting(&self) -> MutexGuard<'_, Seen> {
        // Nothing in there is half-done at any moment.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was told of a card and is not recorded yet.
    pub(super) fn told_of(&self, card: &str) -> Option<Attachment> {
        self.waiting().get(card).map(|(there, _)| there.clone())
    }

    /// Forgets what was recorded, unless something newer was told meanwhile.
    fn done(&self, recorded: &Seen) {
        self.waiting().retain(|card, there| recorded.get(card) != Some(there));
    }
}

impl Controller {
    /// The card `mac` was given an address there. Returns at once; it is recorded
    /// by [`Controller::keep_attached`], and counts from the next check-in on.
    pub fn attached(&self, mac: &str, there: Attachment, now: UnixMs) {
        let Some(card) = identity::mac(mac) else { return };
        {
            let mut waiting = self.attached.waiting();
            if waiting.len() >= WAITING_MAX && !waiting.contains_key(&card) {
                self.metrics.attachments_dropped.inc();
                return;
            }
            waiting.insert(card, (there, now));
        }
        self.attached.told.notify_one();
    }

    /// Records what is told, until it is dropped.
    pub async fn keep_attached(&self) {
        loop {
            self.attached.told.notified().await;
            while let Err(error) = self.record_attached().await {
                let cause = wire::chain(&error);
                tracing::error!(cause, "where machines are was not recorded; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Records what was told up to now.
    pub async fn record_attached(&self) -> Result<(), ControllerError> {
        // One at a time: when this returns, all that was told before is recorded.
        let mut recorded = self.attached.recorded.lock().await;
        // What waits stays there until it is on the disk.
        let waiting = self.attached.waiting().clone();
        if waiting.is_empty() {
            return Ok(());
        }
        let news = self.news_of(&waiting).await?;
        if !news.is_empty() {
            let mut transaction = self.db.write().await?;
            let c = &mut *transaction;
            for (card, (there, seen)) in &news {
                attachment::put(c, card, there, *seen).await?;
            }
            let due = *recorded + news.len();
            if due >= FORGET_AFTER {
                attachment::forget_unknown(c, UNKNOWN_MAX).await?;
            }
            transaction.commit().await?;
            *recorded = if due >= FORGET_AFTER { 0 } else { due };
        }
        self.attached.done(&waiting);
        self.metrics.attachments.inc_by(news.len() as u64);
        Ok(())
    }

    /// Of what was told that which is not on record.
    async fn news_of<'a>(
        &self,
        told: &'a Seen,
    ) -> Result<BTreeMap<&'a String, &'a (Attachment, UnixMs)>, ControllerError> {
        let cards: Vec<_> = told.keys().cloned().collect();
        let before = attachment::of_cards(&mut *self.db.read().await?, &cards).await?;
        let is_news = |card: &String, (there, at): &(Attachment, UnixMs)| {
            before
                .get(card)
                .is_none_or(|(was, seen)| was != there || at.saturating_sub(*seen) >= SAME_MS)
        };
        Ok(told.iter().filter(|(card, told)| is_news(card, told)).collect())
    }

    /// Where a machine with this inventory is, by all that was told up to now.
    pub(super) async fn attachment(
        &self,
        inventory: &Inventory,
    ) -> Result<Option<Attachment>, ControllerError> {
        self.record_attached().await?;
        Ok(attachment::of(&mut *self.db.read().await?, inventory).await?)
    }
}
