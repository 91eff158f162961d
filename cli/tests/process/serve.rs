//! `ingot serve` on loopback, without network boot: HTTP, agents, operators.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wire::api::{CHECK_IN, CheckIn, CheckedIn, EVENTS, EventBatch, EventsSeen};
use wire::{Event, EventKind, Inventory, MachineId, Nic, Order, Outcome, RunId, Step, System};

use crate::support::{World, disk, noise};

pub const CONFIG: &str = "[http]\nlisten = \"127.0.0.1:0\"\n[state]\nfolder = \"state\"\n\
                      [policy]\nfile = \"policy.toml\"\n[log]\nformat = \"json\"\n";
pub const POLICY: &str = "[[rule]]\nname = 'lab'\nwhen = \"system.manufacturer == 'ACME'\"\n\
                      image = 'lab/web:1'\n";

/// A running server; ended with the test.
pub struct Server {
    child: Child,
    pub url: String,
    log: Option<JoinHandle<Vec<Value>>>,
}

impl Server {
    /// Starts it and waits until it says where it serves.
    pub fn start(world: &World) -> Server {
        Server::start_with(world, &[])
    }

    /// As [`Server::start`], with more arguments.
    fn start_with(world: &World, more: &[&str]) -> Server {
        let mut command = world.command(["serve", "--config", "ingot.toml"]);
        command.args(more);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let url = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {said:#?}")).unwrap();
            let Ok(entry) = serde_json::from_str::<Value>(&line) else { panic!("{line}") };
            let url = entry["url"].as_str().map(str::to_owned);
            said.push(entry);
            if let Some(url) = url {
                break url;
            }
        };
        let log = std::thread::spawn(move || {
            said.extend(lines.map_while(Result::ok).filter_map(|l| serde_json::from_str(&l).ok()));
            said
        });
        Server { child, url, log: Some(log) }
    }

    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(format!("{}{path}", self.url)).call().unwrap();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        (response.status().as_u16(), body)
    }

    fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> T {
        let url = format!("{}{path}", self.url);
        ureq::post(url).send_json(body).unwrap().body_mut().read_json().unwrap()
    }

    pub fn check_in(&self, manufacturer: &str) -> CheckedIn {
        let system = System { manufacturer: Some(manufacturer.to_owned()), ..System::default() };
        let mac = format!("52:54:00:00:00:{:02x}", manufacturer.len());
        let nics = vec![Nic { name: "eth0".to_owned(), mac, ..Nic::default() }];
        let missing =
            [("system.serial".to_owned(), "its maker left \"None\" there".to_owned())].into();
        let inventory = Inventory { system, nics, missing, ..Inventory::default() };
        let (version, agent) = (wire::api::VERSION, "1".to_owned());
        let (boot, answers) = (BOOT.to_owned(), BTreeMap::new());
        self.post(CHECK_IN, &CheckIn { version, boot, agent, inventory, answers })
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for its end; returns its exit code and its log.
    fn ended(mut self) -> (Option<i32>, Vec<Value>) {
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }

    pub fn stop(self) -> Vec<Value> {
        self.terminate();
        let (code, log) = self.ended();
        assert_eq!(code, Some(0), "{log:#?}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RECIPE: &str = "recipe = 'web'\nuses = ['system.manufacturer']\n\
                      [base]\ndistro = 'debian/bookworm'\n";

const BOOT: &str = "0123456789abcdef0123456789abcdef";

/// A folder with configuration, policy and one image.
fn site() -> World {
    let world = World::new();
    world.file("ingot.toml", CONFIG);
    world.file("policy.toml", POLICY);
    world.file("disk.raw", disk(1));
    world.ok(["import", "disk.raw", "-t", "lab/web:1", "-q"]);
    world
}

fn batch(machine: &MachineId, run: &RunId) -> EventBatch {
    let steps = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal, Step::Start];
    let started = |step| EventKind::StepStarted { step };
    let ended = |step| EventKind::StepEnded {
        step,
        outcome: Outcome::Done,
        elapsed_ms: 1500,
        received_bytes: if step == Step::Transfer { 1 << 20 } else { 0 },
        written_bytes: 0,
    };
    let kinds = steps.into_iter().flat_map(|step| [started(step), ended(step)]);
    let event = |(index, kind)| Event {
        seq: index as u64 + 1,
        uptime_ms: 1000 * index as u64,
        run: Some(run.clone()),
        attempt: 1,
        kind,
    };
    let events = kinds.enumerate().map(event).collect();
    EventBatch { machine: machine.clone(), boot: BOOT.to_owned(), events }
}

#[test]
fn it_is_healthy_counts_and_stops_when_told() {
    let world = site();
    let server = Server::start(&world);
    let (status, body) = server.get("/healthz");
    let health: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    let (status, body) = server.get("/nothing/here");
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &error["error"]), (404, &json!("there is nothing at /nothing/here")));
    let (status, text) = server.get("/metrics");
    let text = String::from_utf8(text).unwrap();
    assert_eq!(status, 200);
    let line = "ingot_http_requests_total{method=\"GET\",route=\"/healthz\",status=\"200\"} 1";
    assert!(text.lines().any(|l| l == line), "{text}");
    let log = server.stop();
    let messages: Vec<_> = log.iter().filter_map(|entry| entry["message"].as_str()).collect();
    assert!(messages.contains(&"ingot serves") && messages.contains(&"stopped"), "{messages:?}");
}

#[test]
fn it_serves_the_images_of_the_store() {
    let world = site();
    let digest = world.json(["show", "lab/web:1"])["digest"].as_str().unwrap().to_owned();
    let server = Server::start(&world);
    let (status, envelope) = server.get(&format!("/v1/images/{digest}"));
    let envelope: Value = serde_json::from_slice(&envelope).unwrap();
    assert_eq!((status, &envelope["format"]), (200, &json!("ingot.image/1")));
    for part in ["table", "locations"] {
        assert_eq!(server.get(&format!("/v1/images/{digest}/{part}")).0, 200, "{part}");
    }
    server.stop();
}

#[test]
fn operators_label_hold_and_release_a_machine() {
    let world = site();
    world.file(
        "policy.toml",
        "[[rule]]\nname = 'web'\nwhen = \"label.role == 'web'\"\nimage = 'lab/web:1'\n",
    );
    let server = Server::start(&world);
    let machine = server.check_in("ACME").machine;
    let url = server.url.as_str();
    let steer = |args: &[&str]| world.json([&["--server", url, "machine"][..], args].concat());
    let told = || server.check_in("ACME").order;
    assert!(matches!(told(), Order::Hold(_)), "no label, no rule");

    let shown = steer(&["label", machine.as_str(), "role=web", "rack=r12"]);
    assert_eq!(shown["labels"], json!({"rack": "r12", "role": "web"}));
    assert!(matches!(told(), Order::Deploy(_)), "the label counts");
    let shown = steer(&["label", machine.as_str(), "--remove", "rack"]);
    assert_eq!(shown["labels"], json!({"role": "web"}));

    let shown = steer(&["hold", machine.as_str(), "--reason", "memory is being replaced"]);
    assert_eq!(shown["held"], "memory is being replaced");
    let Order::Hold(hold) = told() else { panic!("not held") };
    assert!(hold.reason.contains("memory is being replaced"), "{hold:?}");
    assert_eq!(steer(&["release", machine.as_str()])["held"], Value::Null);
    assert!(matches!(told(), Order::Deploy(_)), "released");
    world.fails(3, ["--server", url, "machine", "release", "m-none"]);
    world.fails(2, ["--server", url, "machine", "label", machine.as_str()]);
    server.stop();
}

#[test]
fn operators_choose_machines_give_them_an_image_and_retire_one() {
    let world = site();
    world.file("policy.toml", "[[rule]]\nname = 'all'\nhold = 'wait'\n");
    let server = Server::start(&world);
    let url = server.url.as_str();
    let machine = server.check_in("ACME").machine;
    server.check_in("Nobody");
    let on = ["--on", "system.manufacturer == \"ACME\""];
    let ask = |args: &[&str]| world.json([&["--server", url][..], args, &on].concat());
    assert_eq!(ask(&["machine", "ls"])[0]["id"], machine.as_str());
    assert_eq!(ask(&["machine", "ls"]).as_array().map(Vec::len), Some(1));

    // Shown first, done when told so, and taken back.
    let plan = world.fails(6, [&["--server", url, "deploy", "lab/web:1"][..], &on].concat());
    assert!(plan.contains("1 machines would get lab/web:1"), "{plan}");
    assert_eq!(ask(&["deploy", "lab/web:1", "--plan"])[0]["id"], machine.as_str());
    let told = || server.check_in("ACME").order;
    assert!(matches!(told(), Order::Hold(_)), "nothing changed");
    assert_eq!(ask(&["deploy", "lab/web:1", "--yes"])[0]["id"], machine.as_str());
    let Order::Deploy(order) = told() else { panic!("not told") };
    assert_eq!(order.system.reference.to_string(), "lab/web:1");
    let why = world.ok(["--server", url, "policy", "why", machine.as_str()]);
    assert!(why.contains("no rule decides: `ingot deploy` gave it lab/web:1"), "{why}");
    ask(&["deploy", "--by-policy", "--yes"]);
    assert!(matches!(told(), Order::Hold(_)), "the policy again");
    world.fails(3, ["--server", url, "deploy", "lab/web:1", "--on", "cpu.count > 1000"]);
    world.fails(1, ["--server", url, "deploy", "lab/web:1", "--on", "cpu.cuont > 1"]);
    world.fails(1, [&["--server", url, "deploy", "none:1", "--yes"][..], &on].concat());

    let retire = ["--server", url, "machine", "retire", machine.as_str()];
    world.fails(6, retire);
    assert_eq!(world.json([&retire[..], &["--yes"]].concat())["state"], "retired");
    let listed = |args: &[&str]| {
        let list = world.json([&["--server", url, "machine", "ls"][..], args].concat());
        list.as_array().map(Vec::len)
    };
    assert_eq!((listed(&[]), listed(&["--all"])), (Some(1), Some(2)));
    assert_ne!(server.check_in("ACME").machine, machine, "it comes back as another one");
    server.stop();
}

#[test]
fn an_agent_is_told_what_the_policy_says_and_operators_see_it() {
    let world = site();
    let server = Server::start(&world);
    let told = server.check_in("ACME");
    let Order::Deploy(order) = told.order else { panic!("{told:?}") };
    assert_eq!(order.system.reference.to_string(), "lab/web:1");
    let held = server.check_in("Nobody");
    assert!(matches!(held.order, Order::Hold(_)), "{held:?}");

    let url = server.url.as_str();
    let ask = |args: &[&str]| world.ok([&["--server", url][..], args].concat());
    let ask_json = |args: &[&str]| world.json([&["--server", url][..], args].concat());
    let machine = told.machine.as_str();
    assert!(ask(&["machine", "ls"]).contains(machine));
    assert_eq!(ask_json(&["machine", "ls"]).as_array().map(Vec::len), Some(2));
    let shown = ask(&["machine", "show", machine]);
    assert!(shown.contains("system.manufacturer  \"ACME\""), "{shown}");
    let missing = "not reported\n  system.serial  its maker left \"None\" there";
    assert!(shown.contains(missing), "{shown}");
    let why = ask(&["policy", "why", machine]);
    assert!(why.contains("rule lab decides: image lab/web:1"), "{why}");
    let why = ask(&["policy", "why", held.machine.as_str()]);
    assert!(why.contains("rule lab does not match") && why.contains("no rule matches"), "{why}");
    let same = ask(&["policy", "dry-run", "policy.toml"]);
    assert_eq!(same, "2 machines on record, for 0 something changes\n");
    world.file("new.toml", "[[rule]]\nname = 'all'\nhold = 'wait'\n");
    let tried = ask(&["policy", "dry-run", "new.toml"]);
    assert!(tried.contains("no rule matches ") && tried.contains(" all: hold: wait"), "{tried}");
    assert!(tried.contains("lab: image lab/web:1") && tried.contains("for 2 something"), "{tried}");
    let differs = ask_json(&["policy", "diff", "--all", "new.toml", "new.toml"]);
    assert_eq!((&differs["total"], &differs["changed"]), (&2.into(), &0.into()));
    assert_eq!(differs["machines"].as_array().map(Vec::len), Some(2));

    let run = order.run.as_str();
    assert_eq!(ask_json(&["run", "ls"])[0]["id"], run);
    let batch = batch(&told.machine, &order.run);
    let seen: EventsSeen = server.post(EVENTS, &batch);
    assert_eq!(seen.seq, batch.events.len() as u64);
    assert_eq!(ask_json(&["run", "show", run])["state"], "succeeded");
    let shown = ask(&["run", "show", run]);
    assert!(shown.contains("transfer") && shown.contains("1.0 MiB"), "{shown}");
    let logs = ask(&["run", "logs", "--follow"]);
    assert!(logs.contains("received 1.0 MiB") && logs.contains("start"), "{logs}");
    for line in ask(&["run", "logs", run, "--json"]).lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["kind"]["event"].is_string());
    }
    let complaint = world.fails(3, ["--server", url, "run", "show", "r-none"]);
    assert!(complaint.contains("cannot get run r-none"), "{complaint}");
    server.stop();
}

#[test]
fn records_survive_a_restart_and_a_kill() {
    let world = site();
    let server = Server::start(&world);
    let told = server.check_in("ACME");
    server.stop();
    let mut server = Server::start(&world);
    server.child.kill().unwrap();
    let (code, _) = server.ended();
    assert_eq!(code, None);
    let server = Server::start(&world);
    assert_eq!(server.check_in("ACME").machine, told.machine);
    let machines = world.json(["--server", &server.url, "machine", "ls"]);
    assert_eq!(machines.as_array().map(Vec::len), Some(1));
    server.stop();
}

#[test]
fn a_transfer_that_runs_is_finished_before_it_ends() {
    let world = site();
    // More than the buffers of both sockets hold.
    world.file("large.raw", noise(5, 32 << 20));
    world.ok(["import", "large.raw", "-t", "large", "-q"]);
    let packs = world.names_below("store/packs");
    let largest = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let len = largest.metadata().unwrap().len();
    let name = largest.file_name().unwrap().to_str().unwrap();
    let server = Server::start(&world);
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /v1/packs/{name} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 4096];
    stream.read_exact(&mut first).unwrap();
    server.terminate();
    let head = first.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut rest = vec![0; usize::try_from(len).unwrap() - (first.len() - head)];
    stream.read_exact(&mut rest).unwrap();
    let (code, log) = server.ended();
    assert_eq!(code, Some(0), "{log:#?}");
    assert_eq!(log.last().unwrap()["whole"], true);
}

#[test]
fn check_says_what_is_in_place_and_serves_nothing() {
    let world = site();
    let text = world.ok(["serve", "--config", "ingot.toml", "--check"]);
    assert!(text.starts_with("everything is in place\n") && text.contains("rules: 1"), "{text}");
    let report = world.json(["serve", "--config", "ingot.toml", "--check"]);
    assert_eq!((&report["rules"], &report["interface"]), (&json!(1), &Value::Null));
}

#[test]
fn every_mistake_is_found_before_it_serves() {
    let world = site();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Never the records of the machine that the tests run on.
    let state = "[state]\nfolder = \"state\"\n";
    let taken = format!("[http]\nlisten = \"{}\"\n{state}", taken.local_addr().unwrap());
    world.file("file", "");
    world.file("bad-policy.toml", "[[rule]]\nname = 'a'\nwhen = 'cpu.cout > 1'\nhold = 'x'\n");
    let http = "[http]\nlisten = \"127.0.0.1:0\"\n";
    let local = format!("{http}{state}");
    let boot = |keys: &str| format!("{local}[boot]\n{keys}");
    let table: Vec<(String, i32, &str)> = vec![
        ("[http]\nlisten = 1\n".to_owned(), 5, "broken.toml:2:10: invalid type"),
        ("[hpt]\n".to_owned(), 5, "did you mean `http`?"),
        ("[http\n".to_owned(), 5, "broken.toml:1:6: "),
        (taken, 1, "another process has it"),
        (format!("{http}[state]\nfolder = \"file/state\"\n"), 1, "[state] folder"),
        (format!("{local}[store]\nurl = \"file/store\"\n"), 1, "cannot open the store"),
        (format!("{local}[policy]\nfile = \"none.toml\"\n"), 3, "cannot use the policy"),
        (format!("{local}[policy]\nfile = \"bad-policy.toml\"\n"), 5, "bad-policy.toml:3:9: "),
        (boot("interface = \"none0\"\n"), 1, "set [boot] interface to one of: "),
        (boot("interface = \"lo\"\nassets = \"none\"\n"), 3, "make them: ingot boot assets"),
        (boot("interface = \"lo\"\naddress = \"192.0.2.1\"\n"), 1, "127.0.0.1"),
        (boot("interface = \"lo\"\npool = \"x\"\n"), 5, "is not a pool"),
        (format!("[http]\nlisten = \"192.0.2.1:1\"\n{state}"), 1, "no interface has 192.0.2.1"),
    ];
    for (config, code, expected) in table {
        world.file("broken.toml", &config);
        for check in
            [&["serve", "--config", "broken.toml"][..], &["serve", "-c", "broken.toml", "--check"]]
        {
            let mut command = world.command(check);
            command.env_remove("INGOT_STORE").env("XDG_DATA_HOME", world.path("data"));
            let ended = crate::support::end(&mut command);
            assert_eq!(ended.code, code, "{config}\n{ended:#?}");
            assert!(ended.stderr.contains(expected), "{config}\n{}", ended.stderr);
        }
    }
    let complaint = world.fails(3, ["serve", "--config", "none.toml"]);
    assert!(complaint.contains("examples/ingot.toml"), "{complaint}");
}

#[test]
fn a_build_that_fails_is_told_to_the_machine_and_tried_again_when_that_is_released() {
    let world = site();
    world.file("web.toml", RECIPE);
    world.file("policy.toml", "[[rule]]\nname = 'web'\nrecipe = 'web.toml'\n");
    // A build wants a folder there.
    world.file("cache", "");
    let server = Server::start_with(&world, &["--cache", "cache"]);
    let ask = |args: &[&str]| -> Value {
        let args = [&["--server", &server.url, "--json"], args].concat();
        serde_json::from_str(&world.ok(args)).unwrap()
    };
    let failed = || {
        for _ in 0..500 {
            let answer = server.check_in("ACME");
            let Order::Hold(hold) = answer.order else { panic!("{answer:?}") };
            if hold.reason.contains("could not be built") {
                return (answer.machine, hold.reason);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("no failure within 25 seconds");
    };
    let (machine, reason) = failed();
    let said = "rule \"web\" wants built/web:";
    assert!(reason.starts_with(said), "{reason}");
    assert!(reason.contains("(recipe web for system.manufacturer \"ACME\")"), "{reason}");
    let why = ask(&["policy", "why", machine.as_str()]);
    let build = &why["rules"][0]["builds"][0];
    assert_eq!((&build["recipe"], &build["image"]), (&json!("web"), &Value::Null));
    assert!(build["standing"].as_str().unwrap().starts_with("its build failed: "), "{build}");
    ask(&["machine", "release", machine.as_str()]);
    failed();
    let log = server.stop();
    let begins = log.iter().filter(|entry| entry["message"] == "build begins").count();
    assert_eq!(begins, 2, "{log:#?}");
}

#[test]
fn a_policy_is_checked_without_a_server() {
    let world = site();
    assert_eq!(world.ok(["policy", "check", "policy.toml"]), "policy.toml: 1 rule: lab\n");
    world.file("bad.toml", "[[rule]]\nname = 'a'\nwhen = 'cpu.cout > 1'\nhold = 'x'\n");
    let ended = world.run(["policy", "check", "bad.toml"]);
    assert_eq!(ended.code, 5);
    assert!(ended.stdout.contains("bad.toml:3:9: ") && ended.stdout.contains("cpu.count"));
    world.fails(3, ["policy", "check", "none.toml"]);
    // Recipes are looked for beside the policy, wherever the command is run.
    std::fs::create_dir(world.path("site")).unwrap();
    world.file("site/right.toml", RECIPE);
    world.file("site/wrong.toml", RECIPE.replace("uses", "use"));
    let rule = |name: &str| {
        format!("[[rule]]\nname = '{name}'\nwhen = 'cpu.count > 1'\nrecipe = '{name}.toml'\n")
    };
    world.file("site/policy.toml", rule("right"));
    world.ok(["policy", "check", "site/policy.toml"]);
    world.file("site/policy.toml", rule("right") + &rule("wrong") + &rule("absent"));
    let ended = world.run(["policy", "check", "site/policy.toml"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    for problem in [
        "site/policy.toml:8:10: site/wrong.toml:2:1: unknown field `use`",
        "site/policy.toml:12:10: cannot read the recipe site/absent.toml: No such file",
    ] {
        assert!(ended.stdout.contains(problem), "{}", ended.stdout);
    }
}

#[test]
fn images_that_machines_make_want_a_server_that_takes_uploads() {
    let world = site();
    world.file("gpu.toml", format!("{RECIPE}[target]\nscript = 'echo it'\n"));
    let rule = "[[rule]]\nname = 'gpu'\nrecipe = 'gpu.toml'\nmissing = 'on-target'\n";
    world.file("policy.toml", rule);
    world.ok(["policy", "check", "policy.toml"]);
    let check = ["serve", "--config", "ingot.toml", "--check"];
    let refused = world.fails(5, check);
    assert!(refused.contains("policy.toml:4:11: a machine that makes this image"), "{refused}");
    assert!(refused.contains("uploads = true"), "{refused}");
    world.file("ingot.toml", format!("{CONFIG}[store]\nuploads = true\n"));
    world.ok(check);
    world.file("policy.toml", rule.replace("on-target", "build"));
    let refused = world.fails(5, check);
    assert!(refused.contains("policy.toml:4:11: this recipe has a [target]"), "{refused}");
}
