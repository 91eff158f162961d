//! The HTTP face.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;
use wire::admin::{
    CHECK, DRY_RUN, DryRun, DryRunRequest, HOLD, LABELS, LOG, LogPage, MACHINES, MachineDetail,
    MachineList, POLICY, PolicyCheck, PolicyStatus, RELEASE, RUNS, RunDetail, RunList, WHY, Why,
};
use wire::api::{CHECK_IN, CheckedIn, EVENTS, ErrorBody, EventsSeen};
use wire::{Device, Disk, Inventory, Order, Partition};

use crate::common::{Agent, World, deploy, line};

pub async fn call(
    router: &Router,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    (status, to_bytes(answer.into_body(), 64 << 20).await.unwrap().to_vec())
}

async fn get<T: DeserializeOwned>(router: &Router, path: &str) -> T {
    let (status, body) = call(router, "GET", path, Vec::new()).await;
    assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn post<T: DeserializeOwned>(router: &Router, path: &str, body: &impl Serialize) -> T {
    let (status, body) = call(router, "POST", path, serde_json::to_vec(body).unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn refused(router: &Router, method: &str, path: &str, body: Vec<u8>) -> (u16, String) {
    let (status, body) = call(router, method, path, body).await;
    let error: ErrorBody = serde_json::from_slice(&body)
        .unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&body)));
    (status.as_u16(), error.error)
}

fn router(world: &World) -> Router {
    controller::router(world.controller.clone(), || 1234)
}

#[tokio::test]
async fn agents_check_in_and_operators_look() {
    let world = World::new().await;
    let router = router(&world);
    let mut agent = Agent::new(1);
    let answer: CheckedIn = post(&router, CHECK_IN, &agent.asks()).await;
    agent.machine = Some(answer.machine.clone());
    let order = deploy(&answer);
    let batch = agent.tells(&order, [line("hello")]);
    let seen: EventsSeen = post(&router, EVENTS, &batch).await;
    assert_eq!(seen.seq, 1);

    let id = &answer.machine;
    let list: MachineList = get(&router, MACHINES).await;
    assert_eq!((list.machines.len(), list.next), (1, None));
    assert_eq!(list.machines[0].first_seen, 1234);
    let detail: MachineDetail = get(&router, &format!("{MACHINES}/{id}")).await;
    assert_eq!(detail.facts["system.manufacturer"].to_string(), "\"Acme\"");
    let labels = serde_json::json!({"set": {"role": "web"}});
    let detail: MachineDetail = post(&router, &format!("{MACHINES}/{id}{LABELS}"), &labels).await;
    assert_eq!(detail.facts["label.role"].to_string(), "\"web\"");
    let reason = serde_json::json!({"reason": "lunch"});
    let detail: MachineDetail = post(&router, &format!("{MACHINES}/{id}{HOLD}"), &reason).await;
    assert_eq!(detail.held.as_deref(), Some("lunch"));
    let (status, _) = call(&router, "POST", &format!("{MACHINES}/{id}{RELEASE}"), vec![]).await;
    assert_eq!(status, StatusCode::OK);

    let runs: RunList = get(&router, &format!("{RUNS}?machine={id}&limit=5")).await;
    let run = &runs.runs[0].id;
    let detail: RunDetail = get(&router, &format!("{RUNS}/{run}")).await;
    assert_eq!(&detail.summary.machine, id);
    for path in [format!("{RUNS}/{run}{LOG}"), format!("{MACHINES}/{id}{LOG}?since=0&wait=9")] {
        let log: LogPage = get(&router, &path).await;
        assert_eq!((log.entries.len(), log.next), (1, 1));
    }
    let why: Why = get(&router, &format!("{POLICY}{WHY}/{id}")).await;
    assert_eq!(why.winner.as_deref(), Some("web"));
    assert!(why.order.starts_with("deploy web:2 ("), "{}", why.order);
    let status: PolicyStatus = get(&router, POLICY).await;
    assert_eq!(status.rules, ["web", "refused", "ghost", "broken", "rest"]);
    let (_, body) = call(&router, "POST", &format!("{POLICY}{CHECK}"), b"[[rule]]".to_vec()).await;
    let check: PolicyCheck = serde_json::from_slice(&body).unwrap();
    assert_eq!(check.problems.len(), 2);
}

#[tokio::test]
async fn every_refusal_says_what_was_wrong() {
    let world = World::new().await;
    let router = router(&world);
    let asks = |change: &dyn Fn(&mut wire::api::CheckIn)| {
        let mut asked = Agent::new(1).asks();
        change(&mut asked);
        serde_json::to_vec(&asked).unwrap()
    };
    let disk = Disk { model: Some("x".repeat(200)), ..Disk::default() };
    let long = asks(&|asked| asked.inventory.disks = vec![disk.clone(); 10_000]);
    let lie = |inventory: &str| {
        let boot = "0".repeat(32);
        format!(r#"{{"version":1,"boot":"{boot}","agent":"x","inventory":{inventory}}}"#)
            .into_bytes()
    };
    let many = lie(&format!(r#"{{"disks":[{}]}}"#, vec!["{}"; 10_000].join(",")));
    let table: [(&str, &str, Vec<u8>, u16, &str); 21] = [
        ("POST", CHECK_IN, vec![], 400, "the body is not the JSON expected: EOF while parsing"),
        (
            "POST",
            CHECK_IN,
            b"{\"version\":\"x\"}".to_vec(),
            400,
            "the body is not the JSON expected: invalid type: string \"x\", expected u32 at line 1",
        ),
        ("POST", CHECK_IN, b"[".repeat(100_000), 400, "the body is not the JSON expected: "),
        ("POST", CHECK_IN, long, 413, "the body is too long: 4194304 bytes are most here"),
        (
            "POST",
            CHECK_IN,
            many,
            400,
            "the body is not the JSON expected: a list of more than 1024 is not believed at line 1",
        ),
        (
            "POST",
            CHECK_IN,
            asks(&|asked| asked.inventory.system.serial = Some("x".repeat(9000))),
            422,
            "system.serial of 9000 bytes is not believed: 1024 are most",
        ),
        (
            "POST",
            CHECK_IN,
            asks(&|asked| {
                asked.inventory.missing = (0..257).map(|n| (n.to_string(), "".into())).collect();
            }),
            422,
            "an inventory of 257 facts that are missing is not believed: 256 are most",
        ),
        (
            "POST",
            CHECK_IN,
            asks(&|asked| asked.inventory.missing = [("x".into(), "y".repeat(2000))].into()),
            422,
            "the reason why a fact is missing of 2000 bytes is not believed",
        ),
        (
            "POST",
            CHECK_IN,
            lie(r#"{"disks":{"vda":1}}"#),
            400,
            "the body is not the JSON expected: invalid type: map, expected a list of at most 1024",
        ),
        (
            "POST",
            CHECK_IN,
            lie(r#"{"disks":[{"size_bytes":-1}]}"#),
            400,
            "the body is not the JSON expected: invalid value: integer `-1`, expected u64",
        ),
        (
            "POST",
            CHECK_IN,
            asks(&|asked| asked.version = 9),
            422,
            "the agent speaks version 9, this controller version 1: boot the machine with the agent",
        ),
        (
            "POST",
            CHECK_IN,
            asks(&|asked| asked.boot = "x".into()),
            422,
            "\"x\" does not name a boot",
        ),
        (
            "GET",
            "/v1/machines/m-ghost",
            vec![],
            404,
            "there is no machine m-ghost: `ingot machine ls` lists all",
        ),
        ("GET", "/v1/machines/a%20b", vec![], 400, "\"a b\" is not a machine id: expected 1 to 64"),
        ("GET", "/v1/machines?limit=many", vec![], 400, "Failed to deserialize query string"),
        ("GET", "/v1/machines?page=2", vec![], 400, "Failed to deserialize query string"),
        (
            "POST",
            "/v1/machines/m-ghost/hold",
            b"{\"reason\":\"\"}".to_vec(),
            422,
            "the reason of a hold is one line",
        ),
        (
            "POST",
            "/v1/machines/m-ghost/labels",
            b"{\"sett\":{}}".to_vec(),
            400,
            "the body is not the JSON expected: unknown field `sett`",
        ),
        (
            "GET",
            "/v1/runs/r-ghost",
            vec![],
            404,
            "there is no run r-ghost: `ingot run ls` lists all",
        ),
        ("GET", "/v1/runs/r-ghost/log?wait=25", vec![], 404, "there is no run r-ghost"),
        ("POST", "/v1/policy/check", vec![0xff], 400, "the body is not text in UTF-8"),
    ];
    for (method, path, body, status, text) in table {
        let (got, error) = refused(&router, method, path, body).await;
        assert!(got == status && error.starts_with(text), "{method} {path}: {got} {error}");
    }
}

#[tokio::test]
async fn labels_have_limits() {
    let world = World::new().await;
    let router = router(&world);
    let answer: CheckedIn = post(&router, CHECK_IN, &Agent::new(1).asks()).await;
    let path = format!("{MACHINES}/{}{LABELS}", answer.machine);
    let long = "x".repeat(256);
    let many: std::collections::BTreeMap<_, _> =
        (0..65).map(|n| (n.to_string(), "x".to_owned())).collect();
    let table = [
        (serde_json::json!({"set": {"a b": "x"}}), "\"a b\" cannot name a label"),
        (serde_json::json!({"set": {"": "x"}}), "\"\" cannot name a label"),
        (serde_json::json!({"set": {"a": "x\ny"}}), "the value of label \"a\" is not one line"),
        (serde_json::json!({"set": {"a": long}}), "the value of label \"a\" is not one line"),
        (serde_json::json!({"set": many}), "65 labels: a machine has at most 64"),
    ];
    for (change, text) in table {
        let (status, error) =
            refused(&router, "POST", &path, serde_json::to_vec(&change).unwrap()).await;
        assert!(status == 422 && error.starts_with(text), "{status} {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_machines_at_once_get_a_hundred_records() {
    let world = World::new().await;
    let router = router(&world);
    // Each twice, at the same time.
    let calls = (0..200_u32).map(|n| {
        let router = router.clone();
        tokio::spawn(async move {
            let mut agent = Agent::new(n / 2);
            let answer: CheckedIn = post(&router, CHECK_IN, &agent.asks()).await;
            agent.machine = Some(answer.machine.clone());
            let Order::Deploy(order) = &answer.order else { panic!("{answer:?}") };
            let batch = agent.tells(order, (0..5).map(|n| line(&n.to_string())));
            let seen: EventsSeen = post(&router, EVENTS, &batch).await;
            assert_eq!(seen.seq, 5);
            (n / 2, answer)
        })
    });
    let mut answers = std::collections::BTreeMap::new();
    for task in calls.collect::<Vec<_>>() {
        let (number, answer) = task.await.unwrap();
        let first = answers.entry(number).or_insert_with(|| answer.clone());
        assert_eq!(first, &answer, "the same machine is told the same");
    }
    let ids: std::collections::BTreeSet<_> = answers.values().map(|a| &a.machine).collect();
    assert_eq!(ids.len(), 100);

    let mut pages = 0;
    let mut after = String::new();
    let mut seen = 0;
    loop {
        let list: MachineList = get(&router, &format!("{MACHINES}?limit=30{after}")).await;
        (pages, seen) = (pages + 1, seen + list.machines.len());
        let Some(next) = list.next else { break };
        after = format!("&after={next}");
    }
    assert_eq!((pages, seen), (4, 100));
    for id in ids {
        let log: LogPage = get(&router, &format!("{MACHINES}/{id}{LOG}")).await;
        assert_eq!(log.entries.len(), 5);
    }
    assert_eq!(world.controller.metrics().machines_new.get(), 100);
}

/// The largest inventory that is believed is not too long to be sent.
#[tokio::test]
async fn as_many_disks_and_devices_as_are_believed_are_taken() {
    let world = World::new().await;
    let router = router(&world);
    let text = || Some("x".repeat(64));
    let disk = Disk {
        model: text(),
        serial: text(),
        wwid: text(),
        partitions: vec![
            Partition {
                number: 1,
                kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
                size_bytes: 1 << 40
            };
            Inventory::PARTITIONS_MAX
        ],
        ..Disk::default()
    };
    let device = Device { place: "0000:3b:00.0".into(), modalias: "x".repeat(64), driver: text() };
    let mut asked = Agent::new(1).asks();
    asked.inventory.disks = vec![disk; Inventory::DISKS_MAX];
    asked.inventory.pci = vec![device.clone(); Inventory::DEVICES_MAX];
    asked.inventory.usb = vec![device; Inventory::DEVICES_MAX];
    let answer: CheckedIn = post(&router, CHECK_IN, &asked).await;
    deploy(&answer);
}

#[tokio::test]
async fn a_policy_is_held_against_all_machines_and_changes_nothing() {
    let world = World::new().await;
    let router = router(&world);
    let mut ids = Vec::new();
    for number in 1..=3 {
        let answer: CheckedIn = post(&router, CHECK_IN, &Agent::new(number).asks()).await;
        ids.push(answer.machine);
    }
    let labels = serde_json::json!({"set": {"role": "db"}});
    let _: MachineDetail = post(&router, &format!("{MACHINES}/{}{LABELS}", ids[1]), &labels).await;
    ids.sort();
    let path = format!("{POLICY}{DRY_RUN}");
    let rule = |name: &str, rest: &str| format!("[[rule]]\nname = '{name}'\n{rest}\n");
    let db = rule("db", "when = 'label.role == \"db\"'\nhold = 'wait'");
    let request = |policy: &str, instead_of: Option<&str>| DryRunRequest {
        policy: policy.to_owned(),
        instead_of: instead_of.map(str::to_owned),
        after: None,
    };
    let before = serde_json::to_value(get::<MachineList>(&router, MACHINES).await).unwrap();
    let found: DryRun = post(&router, &path, &request(&db, None)).await;
    assert_eq!((found.machines.len(), found.next), (3, None));
    assert!(found.machines.iter().map(|machine| &machine.machine).eq(&ids));
    let held: Vec<_> = found.machines.iter().filter(|machine| machine.after.is_some()).collect();
    let [held] = held[..] else { panic!("{found:?}", found = held) };
    let after = held.after.as_ref().unwrap();
    assert_eq!(
        (after.rule.as_str(), after.outcome.as_str(), after.how.as_str()),
        ("db", "hold: wait", "")
    );
    assert!(held.before.as_ref().is_some_and(|before| before.outcome.starts_with("image ")));

    // Against another file; what differs is how the image is put on the disk.
    let image = |rest: &str| rule("all", &format!("image = 'web:1'\n{rest}"));
    let (one, two) = (image("start = 'kexec'"), image("disk = { model = 'X' }"));
    let found: DryRun = post(&router, &path, &request(&two, Some(&one))).await;
    for machine in &found.machines {
        let [before, after] = [&machine.before, &machine.after].map(|r| r.clone().unwrap());
        assert_eq!((&before.rule, &before.outcome), (&after.rule, &after.outcome));
        assert_ne!(before.how, after.how);
    }
    let found: DryRun = post(&router, &path, &request(&one, Some(&one))).await;
    assert!(found.machines.iter().all(|machine| machine.before == machine.after));
    let last = DryRunRequest { after: Some(ids[1].clone()), ..request(&one, None) };
    let found: DryRun = post(&router, &path, &last).await;
    assert_eq!(found.machines.len(), 1);

    let wrong = serde_json::to_vec(&request("[[rule]]\nname = 4\n", None)).unwrap();
    let (status, error) = refused(&router, "POST", &path, wrong).await;
    assert!(status == 422 && error.contains("2:8: "), "{status} {error}");
    let long = serde_json::to_vec(&request(&"#".repeat(1 << 20 | 1), None)).unwrap();
    let (status, error) = refused(&router, "POST", &path, long).await;
    assert!(status == 422 && error.contains("more than 1048576 bytes"), "{status} {error}");
    let after = serde_json::to_value(get::<MachineList>(&router, MACHINES).await).unwrap();
    assert_eq!(after, before);

    // No policy decides about a machine out of service.
    world.controller.retire(&ids[2], world.now).await.unwrap();
    let found: DryRun = post(&router, &path, &last).await;
    assert_eq!((found.machines.len(), found.next), (0, None));
}
