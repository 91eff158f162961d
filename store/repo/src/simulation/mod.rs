//! Processes that share a store, led step by step through what schedulers,
//! crashes and clocks do: imports, removals, readers, a server and two
//! collections (`docs/garbage.md`).
//!
//! The code under test is the real one, over objects in memory and a real
//! database. Every process waits at a gate before each access to an object and
//! before each statement or transaction, and goes on when a seeded scheduler
//! lets it; only one runs at a time, so a seed always gives the same steps. The
//! database's transactions are atomic by themselves: while one that writes is
//! open, nobody else is let to the database, as the database would see to.
//!
//! Not simulated: the task that renews a lease. The scheduler does what it does
//! for those who live, whenever the clock goes on.

mod gate;
mod oracle;
mod run;
mod world;

use run::{Plan, run};
use world::Disks;

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn all(seeds: std::ops::Range<u64>, plan: Plan) {
    let disks = block_on(Disks::new());
    for seed in seeds {
        if let Err(wrong) = block_on(run(seed, plan, &disks)).1 {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn nothing_is_lost_while_the_clock_goes_right() {
    all(0..SEEDS, Plan::default());
}

#[test]
fn nothing_is_lost_when_processes_die() {
    all(0..SEEDS, Plan { deaths: true, ..Plan::default() });
}

#[test]
fn nothing_is_lost_when_the_clock_jumps() {
    all(0..SEEDS, Plan { jumps: true, deaths: true, ..Plan::default() });
}

const SEEDS: u64 = 50;

#[test]
fn a_seed_always_gives_the_same_steps() {
    let disks = block_on(Disks::new());
    for seed in 1000..1005 {
        let plan = Plan { jumps: true, deaths: true, ..Plan::default() };
        let traces = [(); 2].map(|()| block_on(run(seed, plan, &disks)).0);
        assert!(traces[0] == traces[1], "seed {seed}");
        assert!(traces[0].len() > 200);
    }
}

/// The first seed that finds what is wrong when a safeguard is taken away.
#[track_caller]
fn is_found(plan: Plan) {
    let disks = block_on(Disks::new());
    let wrong = (0..SEEDS).find_map(|seed| block_on(run(seed, plan, &disks)).1.err());
    println!("{}", wrong.expect("nobody noticed"));
}

#[test]
fn leases_that_keep_nothing_are_noticed() {
    let sabotage = "CREATE TRIGGER sabotage AFTER INSERT ON leases BEGIN \
                    UPDATE leases SET began = 1000000 WHERE id = NEW.id; END";
    is_found(Plan { sabotage: Some(sabotage), ..Plan::default() });
}

#[test]
fn an_epoch_that_stands_still_is_noticed() {
    let sabotage = "CREATE TRIGGER sabotage BEFORE UPDATE ON epoch BEGIN \
                    SELECT RAISE(IGNORE); END";
    is_found(Plan { sabotage: Some(sabotage), ..Plan::default() });
}

#[test]
fn objects_that_are_written_and_stay_condemned_are_noticed() {
    let sabotage = "CREATE TRIGGER sabotage BEFORE DELETE ON condemned BEGIN \
                    SELECT RAISE(IGNORE); END";
    is_found(Plan { sabotage: Some(sabotage), ..Plan::default() });
}

/// Neither the lease nor the objects are looked at when an image is recorded.
#[test]
fn images_that_are_recorded_without_looking_are_noticed() {
    let sabotage = "CREATE TRIGGER sabotage BEFORE DELETE ON leases \
                    WHEN OLD.purpose = 'import' BEGIN \
                    UPDATE leases SET began = 1000000 WHERE id = OLD.id; \
                    SELECT RAISE(IGNORE); END";
    let plan = Plan { jumps: true, sabotage: Some(sabotage), blind: true, ..Plan::default() };
    is_found(plan);
}
