//! Where in the network cards are, by their hardware addresses.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use wire::admin::UnixMs;
use wire::{Facts, Inventory};

use super::machine::Machine;
use super::{Connection, DbError, from_sql, to_sql};
use crate::attachment::Attachment;
use crate::identity::{self, Kind};

/// Most cards that one statement asks for.
const CARDS_AT_ONCE: usize = 500;

/// Cards, where each was, and when that was seen.
pub(crate) type Seen = BTreeMap<String, (Attachment, UnixMs)>;

#[derive(sqlx::FromRow)]
struct Row {
    mac: String,
    subnet: String,
    relay: Option<String>,
    circuit_id: Option<String>,
    remote_id: Option<String>,
    subscriber_id: Option<String>,
    seen: i64,
}

/// What is on record of these cards.
pub(crate) async fn of_cards(c: &mut Connection, cards: &[String]) -> Result<Seen, DbError> {
    let mut seen = Seen::new();
    for some in cards.chunks(CARDS_AT_ONCE) {
        let mut query = QueryBuilder::new("SELECT * FROM attachments WHERE mac IN (");
        let mut list = query.separated(", ");
        for card in some {
            list.push_bind(card.clone());
        }
        query.push(")");
        let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *c).await?;
        for row in rows {
            let Row { mac, subnet, relay, circuit_id, remote_id, subscriber_id, .. } = row;
            let at = from_sql(row.seen, "attachments.seen")?;
            let there = Attachment { subnet, relay, circuit_id, remote_id, subscriber_id };
            seen.insert(mac, (there, at));
        }
    }
    Ok(seen)
}

/// Where a machine is.
pub(crate) async fn of(
    c: &mut Connection,
    inventory: &Inventory,
) -> Result<Option<Attachment>, DbError> {
    let seen = of_cards(c, &cards(inventory)).await?;
    Ok(place(inventory, &seen))
}

/// The facts of a machine on record.
pub(crate) async fn facts_of(c: &mut Connection, machine: &Machine) -> Result<Facts, DbError> {
    Ok(machine.facts(of(c, &machine.inventory).await?.as_ref()))
}

/// The facts of each of these machines.
pub(crate) async fn facts_of_all(
    c: &mut Connection,
    machines: &[Machine],
) -> Result<Vec<Facts>, DbError> {
    let all: Vec<_> = machines.iter().flat_map(|machine| cards(&machine.inventory)).collect();
    let seen = of_cards(c, &all).await?;
    let facts = |machine: &Machine| machine.facts(place(&machine.inventory, &seen).as_ref());
    Ok(machines.iter().map(facts).collect())
}

fn cards(inventory: &Inventory) -> Vec<String> {
    inventory.nics.iter().filter_map(|nic| identity::mac(&nic.mac)).collect()
}

/// The place of the card through which the server was reached, else of that which
/// was seen last. One in another network than the machine reports itself is of a
/// lease that it has no more.
fn place(inventory: &Inventory, seen: &Seen) -> Option<Attachment> {
    let reported = inventory.network.subnet.as_ref();
    let known = inventory.nics.iter().filter_map(|nic| {
        let (there, at) = seen.get(&identity::mac(&nic.mac)?)?;
        reported.is_none_or(|subnet| *subnet == there.subnet).then_some((nic.booted, at, there))
    });
    known.max_by_key(|(booted, at, _)| (*booted, **at)).map(|(_, _, there)| there.clone())
}

/// Writes where a card is.
pub(crate) async fn put(
    c: &mut Connection,
    card: &str,
    there: &Attachment,
    seen: UnixMs,
) -> Result<(), DbError> {
    let sql = "INSERT INTO attachments \
               (mac, subnet, relay, circuit_id, remote_id, subscriber_id, seen) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) \
               ON CONFLICT (mac) DO UPDATE SET subnet = $2, relay = $3, circuit_id = $4, \
               remote_id = $5, subscriber_id = $6, seen = $7";
    sqlx::query(sql)
        .bind(card)
        .bind(&there.subnet)
        .bind(&there.relay)
        .bind(&there.circuit_id)
        .bind(&there.remote_id)
        .bind(&there.subscriber_id)
        .bind(to_sql(seen, "attachments.seen")?)
        .execute(c)
        .await?;
    Ok(())
}

/// Forgets cards that no machine on record has but for those seen last.
pub(crate) async fn forget_unknown(c: &mut Connection, but: u32) -> Result<(), DbError> {
    let count = "SELECT COUNT(*) FROM attachments a WHERE NOT EXISTS \
                 (SELECT 1 FROM identifiers i WHERE i.kind = $1 AND i.value = a.mac)";
    let (count,): (i64,) = sqlx::query_as(count).bind(Kind::Mac.name()).fetch_one(&mut *c).await?;
    let excess = count.saturating_sub(but.into());
    if excess > 0 {
        let oldest = "DELETE FROM attachments WHERE mac IN \
                      (SELECT a.mac FROM attachments a WHERE NOT EXISTS \
                      (SELECT 1 FROM identifiers i WHERE i.kind = $1 AND i.value = a.mac) \
                      ORDER BY a.seen, a.mac LIMIT $2)";
        sqlx::query(oldest).bind(Kind::Mac.name()).bind(excess).execute(c).await?;
    }
    Ok(())
}
