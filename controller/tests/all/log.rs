//! The log: ordered, without gaps, each event once.

use std::time::Duration;

use wire::{Event, EventKind, Outcome, Step};

use crate::common::{Agent, World, deploy, ended, failed, line, started};

fn lines(entries: &[wire::admin::LogEntry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| match &entry.kind {
            EventKind::Log { line } => line.clone(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn events_are_recorded_once_in_order_and_without_gaps() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let id = agent.machine.clone().unwrap();
    let all = agent.tells(&order, (1..=6).map(|n| line(&n.to_string())));
    let part = |numbers: &[usize]| {
        let mut batch = all.clone();
        batch.events = numbers.iter().map(|n| all.events[n - 1].clone()).collect();
        batch
    };
    let table: [(&[usize], u64); 7] = [
        (&[], 0),
        (&[1, 2], 2),
        (&[1, 2], 2), // again
        (&[2, 3], 3), // overlapping
        (&[4, 6], 4), // a gap within
        (&[6, 5], 4), // disorder
        (&[3, 4, 5, 6], 6),
    ];
    for (numbers, seq) in table {
        assert_eq!(world.send(&part(numbers)).await.seq, seq, "{numbers:?}");
    }
    let log = world.controller.run_log(&order.run, 0, 100, Duration::ZERO).await.unwrap();
    assert_eq!(lines(&log.entries), ["1", "2", "3", "4", "5", "6"]);
    let records: Vec<_> = log.entries.iter().map(|entry| (entry.record, entry.seq)).collect();
    assert_eq!(records, (1..=6).map(|n| (n, n)).collect::<Vec<_>>());

    // Another boot counts from one again; the machine's records go on.
    agent.restart();
    let order = deploy(&world.check_in(&mut agent).await);
    let mut batch = agent.tells(&order, [line("7")]);
    batch.events[0].run = None;
    assert_eq!(world.send(&batch).await.seq, 1);
    let log = world.controller.machine_log(&id, 5, 100, Duration::ZERO).await.unwrap();
    assert_eq!(lines(&log.entries), ["6", "7"]);
    assert_eq!(log.next, 7);
    assert_eq!(world.controller.metrics().events.get(), 7);
    assert_eq!(world.controller.metrics().events_repeated.get(), 2 + 1 + 2);
}

#[tokio::test]
async fn a_log_is_read_in_pages_and_ends_with_its_run() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = world.install(&mut agent).await;
    let mut since = 0;
    let mut seen = 0;
    loop {
        let wait = Duration::from_secs(20);
        let page = world.controller.run_log(&order.run, since, 3, wait).await.unwrap();
        assert!(page.entries.len() <= 3);
        if page.over {
            break;
        }
        (since, seen) = (page.next, seen + page.entries.len());
    }
    assert_eq!(seen, 10);
}

#[tokio::test]
async fn the_log_of_a_run_that_found_its_image_ends_when_that_is_started() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    world.install(&mut agent).await;
    agent.restart();
    let order = deploy(&world.check_in(&mut agent).await);
    let page = async |world: &World, since| {
        world.controller.run_log(&order.run, since, 10, Duration::ZERO).await.unwrap()
    };
    assert!(!page(&world, 0).await.over);
    let batch = agent.tells(&order, [started(Step::Start), ended(Step::Start, Outcome::Done)]);
    world.send(&batch).await;
    let first = page(&world, 0).await;
    assert_eq!((first.entries.len(), first.over), (2, false));
    assert!(page(&world, first.next).await.over);
}

#[tokio::test]
async fn a_follower_is_told_at_once() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    let controller = world.controller.clone();
    let run = order.run.clone();
    let follower = tokio::spawn(async move {
        controller.run_log(&run, 0, 100, Duration::from_secs(60)).await.unwrap()
    });
    tokio::task::yield_now().await;
    let batch = agent.tells(&order, [line("news")]);
    world.send(&batch).await;
    assert_eq!(lines(&follower.await.unwrap().entries), ["news"]);
}

#[tokio::test]
async fn reports_that_belong_nowhere_are_refused() {
    let mut world = World::new().await;
    let mut one = Agent::new(1);
    let order = deploy(&world.check_in(&mut one).await);
    let good = one.tells(&order, [line("x")]);
    let event = |change: &dyn Fn(&mut Event)| {
        let mut batch = good.clone();
        change(&mut batch.events[0]);
        batch
    };
    let ghost = |batch: &mut wire::api::EventBatch| batch.machine = "m-ghost".parse().unwrap();
    let mut unknown_machine = good.clone();
    ghost(&mut unknown_machine);
    let mut odd_boot = good.clone();
    odd_boot.boot = "../../etc".into();
    let mut many = good.clone();
    many.events = vec![good.events[0].clone(); 1001];
    let table = [
        (unknown_machine, "there is no machine m-ghost: `ingot machine ls` lists all".to_owned()),
        (odd_boot, "\"../../etc\" does not name a boot: expected 32 lower-case hex digits".into()),
        (many, "a batch of 1001 events: 1000 are most, send several".into()),
        (
            event(&|event| event.seq = 0),
            "event 0 at 100 ms is not believed: numbers count from 1 and stay below 2^63".into(),
        ),
        (
            event(&|event| event.uptime_ms = u64::MAX),
            "event 1 at 18446744073709551615 ms is not believed: numbers count from 1 and stay \
             below 2^63"
                .into(),
        ),
    ];
    for (batch, message) in table {
        let error = world.controller.events(&batch, 1).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let log = world.controller.machine_log(&good.machine, 0, 10, Duration::ZERO).await.unwrap();
    assert_eq!(log.entries, [], "nothing of a refused batch is recorded");
    assert_eq!(world.send(&good).await.seq, 1);
}

#[tokio::test]
async fn texts_are_kept_as_far_as_people_read() {
    let mut world = World::new().await;
    let mut agent = Agent::new(1);
    let order = deploy(&world.check_in(&mut agent).await);
    // A character of two bytes stands where the text is cut.
    let long = "x".repeat((16 << 10) - 1) + &"ä".repeat(1 << 20);
    let told = [line(&long), ended(Step::Transfer, failed(&long))];
    let batch = agent.tells(&order, told);
    world.send(&batch).await;
    let cause = world.controller.run(&order.run).await.unwrap().summary.cause.unwrap();
    assert!(cause.ends_with("x … and 2097152 bytes more"), "{} bytes", cause.len());
    let id = agent.machine.as_ref().unwrap();
    let log = world.controller.machine_log(id, 0, 1000, Duration::ZERO).await.unwrap();
    assert!(log.entries.iter().any(|e| e.kind == line(&cause)), "{}", log.entries.len());
}
