//! A fleet in one process, in virtual time: machines that are told to install
//! get what the policy gives them and nothing else, whatever happens meanwhile.
//!
//! Every course is made of [`Act`]s, which `proptest` makes up: from a seed
//! where there is a clock, or by its own means where the shortest course that
//! shows a mistake is wanted. `INGOT_FLEET_SEEDS=1000` runs that many.

mod acts;
mod machine;
mod rules;
mod site;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use controller::{Asking, BuildOptions, Controller, Db, Images, Policy, PolicyFile};
use proptest::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use wire::{Digest, Reference};

use crate::common::{AT_ONCE, Agent, Counter, Table, World, deploy};
use crate::workshop::Workshop;
use acts::{Dice, act, fate, incident, rules};
use machine::{Doing, Machine};
use rules::Rules;
use site::{Act, Fate, Site};

/// Seeds of the courses with a clock.
const SEEDS: u64 = 6;
/// Machines and turns in each of them.
const FLEET: u32 = 12;
const TURNS: usize = 250;

/// Machines that get images of their own by [`Rules::for_all`].
const SUBSETS: u32 = 3;

/// In which all machines of a fleet start.
const REGISTRATION_MS: u64 = 10_000;

/// When who has a turn.
struct Agenda(BinaryHeap<Reverse<(u64, usize)>>);

impl Agenda {
    /// All within [`REGISTRATION_MS`].
    fn new(machines: usize, dice: &mut Dice) -> Agenda {
        Agenda((0..machines).map(|n| Reverse((dice.roll(0..REGISTRATION_MS), n))).collect())
    }

    fn next(&mut self, site: &mut Site) -> Option<usize> {
        let Reverse((time, n)) = self.0.pop()?;
        site.world.now = 1000 + time;
        Some(n)
    }

    fn again(&mut self, n: usize, site: &Site, dice: &mut Dice) {
        self.0.push(Reverse((site.world.now - 1000 + dice.roll(100..3000_u64), n)));
    }
}

/// Some hours of a fleet, and then a calm one.
async fn hours(seed: u64) {
    let mut dice = Dice::new(seed);
    let machines = usize::try_from(FLEET).unwrap();
    let mut site = Site::new(dice.roll(rules()), 0..FLEET).await;
    let mut agenda = Agenda::new(machines, &mut dice);
    for _ in 0..TURNS {
        let Some(n) = agenda.next(&mut site) else { break };
        if dice.roll(0..5_u32) == 0 {
            site.apply(&dice.roll(incident(machines))).await;
        }
        site.apply(&Act::Turn(n, dice.roll(fate()))).await;
        agenda.again(n, &site, &mut dice);
    }
    site.calm().await;
    site.conclude().await;
}

#[tokio::test]
async fn whatever_happens_to_a_fleet_in_the_end_each_has_what_the_policy_gives() {
    let seeds = std::env::var("INGOT_FLEET_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        // Printed only where it fails.
        println!("seed {seed}");
        hours(seed).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn no_machine_is_ever_told_to_install_what_no_rule_gives_it(
        rules in rules(),
        acts in prop::collection::vec(act(3), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut site = Site::new(rules, 0..3).await;
            for act in &acts {
                site.world.now += 10;
                site.apply(act).await;
            }
            site.calm().await;
            site.conclude().await;
        });
    }
}

/// One machine of each subset is installed and started again. Before the call
/// of this number is repeated its answer gets lost, and the server is killed.
async fn course(stop: usize) -> (usize, Vec<String>) {
    let mut site = Site::new(Rules::for_all(), 0..SUBSETS).await;
    let mut calls = 0;
    for boot in 0..2 {
        let mut waiting: Vec<usize> = (0..site.machines.len()).collect();
        while !waiting.is_empty() {
            for n in waiting.clone() {
                calls += 1;
                site.world.now = u64::try_from(calls).unwrap();
                if calls == stop {
                    site.apply(&Act::Turn(n, Fate::AnswerLost)).await;
                    site.apply(&Act::Kill).await;
                }
                site.apply(&Act::Turn(n, Fate::Fine)).await;
                if calls == site.machines.len() {
                    site.apply(&Act::Label(0, 0)).await;
                }
            }
            waiting.retain(|n| !matches!(site.machines[*n].doing, Doing::Over));
        }
        if boot == 0 {
            site.machines.iter_mut().for_each(Machine::reboot);
        }
    }
    // The first was labelled after it had its order, and got another image then.
    site.conclude().await;
    (calls, site.story().await)
}

#[tokio::test]
async fn a_fleet_whose_server_is_killed_at_any_call_has_the_same_record() {
    let (calls, story) = course(usize::MAX).await;
    assert!(calls > 20, "{calls} calls: {story:#?}");
    for stop in 1..=calls {
        let (_, other) = course(stop).await;
        assert!(other == story, "killed after call {stop}: {other:#?} instead of {story:#?}");
    }
}

/// The database of a world, as another process has it open.
async fn outside(world: &World) -> SqliteConnection {
    let path = world.dir.path().join("c.db");
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

/// Copies the record of the machine number 0 for the numbers in this range.
async fn copies(world: &World, numbers: Range<u32>) {
    let (from, to) = (numbers.start, numbers.end - 1);
    // As the inventory has it, and as identifiers are compared.
    let of = |column: &str| {
        let (card, plain) = ("52:54:00:00:%02x:%02x", "52540000%02x%02x");
        [
            ("aabb00000000", "printf('aabb%08x', i)".to_owned()),
            ("SN-0", "printf('SN-%d', i)".to_owned()),
            ("sn-0", "printf('sn-%d', i)".to_owned()),
            ("52:54:00:00:00:00", format!("printf('{card}', i / 256, i % 256)")),
            ("525400000000", format!("printf('{plain}', i / 256, i % 256)")),
        ]
        .iter()
        .fold(column.to_owned(), |text, (old, new)| format!("replace({text}, '{old}', {new})"))
    };
    let n = format!(
        "WITH RECURSIVE n(i) AS (VALUES ({from}) UNION ALL \
                     SELECT i + 1 FROM n WHERE i < {to})"
    );
    let (inventory, value) = (of("inventory"), of("value"));
    let sql = format!(
        "BEGIN;
         CREATE TEMP TABLE original AS SELECT * FROM machines;
         CREATE TEMP TABLE known AS SELECT * FROM identifiers;
         {n} INSERT INTO machines (id, state, labels, inventory, agent, first_seen, last_seen,
             records, answers) SELECT printf('m-old%d', i), 'held', labels, {inventory}, agent,
             first_seen, last_seen, 0, answers FROM n, original;
         {n} INSERT INTO identifiers SELECT kind, {value}, printf('m-old%d', i) FROM n, known;
         COMMIT"
    );
    outside(world).await.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.unwrap();
}

#[tokio::test]
async fn a_thousand_machines_register_in_ten_seconds_beside_ten_thousand_records() {
    let mut dice = Dice::new(0);
    let mut site = Site::new(Rules::for_all(), 10_000..11_000).await;
    // They tell all of an installation at once: there are enough calls.
    site.machines.iter_mut().for_each(|machine| machine.batch = usize::MAX);
    site.world.check_in(&mut Agent::new(0)).await;
    copies(&site.world, 1..10_000).await;
    let mut agenda = Agenda::new(1000, &mut dice);
    let mut turns = 0;
    while let Some(n) = agenda.next(&mut site) {
        turns += 1;
        if turns % 500 == 0 {
            site.apply(&Act::Kill).await;
        }
        site.apply(&Act::Turn(n, dice.roll(fate_of_many()))).await;
        if !matches!(site.machines[n].doing, Doing::Over) {
            agenda.again(n, &site, &mut dice);
        }
    }
    site.conclude().await;
    // Those who were there before are known, each as itself.
    for number in [1, 255, 256, 5000, 9999] {
        let mut old = Agent::new(number);
        deploy(&site.world.check_in(&mut old).await);
        assert_eq!(old.machine.unwrap().as_str(), format!("m-old{number}"));
    }
    let sql = "SELECT count(*) FROM machines";
    let count: i64 =
        sqlx::query_scalar(sql).fetch_one(&mut outside(&site.world).await).await.unwrap();
    assert_eq!(count, 11_000);
}

fn fate_of_many() -> impl Strategy<Value = Fate> {
    prop_oneof![20 => Just(Fate::Fine), 1 => Just(Fate::AnswerLost)]
}

/// A store that counts who asked.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Images for Counting {
    fn resolve<'a>(&'a self, _: &'a Reference) -> Asking<'a, Option<Digest>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(Some(Digest([1; 32]))) })
    }

    fn name<'a>(&'a self, _: &'a Digest, _: &'a Reference) -> Asking<'a, bool> {
        Box::pin(async { Ok(true) })
    }
}

#[tokio::test]
async fn machines_that_check_in_together_share_a_commit() {
    const TOGETHER: usize = 60;
    let world = World::new().await;
    let db = Db::open(&world.dir.path().join("c.db")).await.unwrap();
    let policy = PolicyFile::fixed(Policy::parse(&Rules::for_all().toml()).unwrap());
    let (images, random) = (Arc::new(Counting::default()), Arc::new(Counter::default()));
    let builder = Arc::new(Workshop::new(Arc::new(Table::default())));
    let options = BuildOptions { at_once: AT_ONCE, settle: Duration::ZERO };
    let controller = Controller::new(db, policy, images.clone(), random, builder, options);
    let controller = Arc::new(controller);
    // Nobody can write while another process does.
    let mut outside = outside(&world).await;
    outside.execute("BEGIN IMMEDIATE").await.unwrap();
    let call = |number| {
        let controller = controller.clone();
        tokio::spawn(async move { controller.check_in(&Agent::new(number).asks(), 1).await })
    };
    let calls: Vec<_> = (0..u32::try_from(TOGETHER).unwrap()).map(call).collect();
    // After it has asked for its image, a call has nothing to do but write.
    while images.0.load(Ordering::Relaxed) < TOGETHER {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(calls.iter().all(|call| !call.is_finished()));
    outside.execute("COMMIT").await.unwrap();
    for call in calls {
        deploy(&call.await.unwrap().unwrap());
    }
    let commits = controller.metrics().commits.get();
    assert!(commits <= 2, "{commits} commits for {TOGETHER} machines");
}
