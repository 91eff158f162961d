//! `ingot policy show` and `ingot policy apply`, against a served process.

use serde_json::Value;

use crate::serve::{CONFIG, POLICY, Server};
use crate::support::{World, disk};

const HOLD: &str = "# nobody yet\n[[rule]]\nname = 'all'\nhold = 'wait'\n";

fn site() -> World {
    let world = World::new();
    world.file("ingot.toml", CONFIG);
    world.file("policy.toml", POLICY);
    world.file("disk.raw", disk(1));
    world.ok(["import", "disk.raw", "-t", "lab/web:1", "-q"]);
    world
}

fn text(world: &World) -> String {
    std::fs::read_to_string(world.path("policy.toml")).unwrap()
}

/// `ingot policy` of this server.
fn policy<'a>(server: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["--server", server, "policy"][..], args].concat()
}

#[test]
fn a_policy_is_shown_planned_and_put_in_force() {
    let world = site();
    let server = Server::start(&world);
    server.check_in("ACME");
    let ask = |args| policy(&server.url, args);
    assert_eq!(world.ok(ask(&["show"])), POLICY);
    let shown = world.json(ask(&["show"]));
    assert_eq!((&shown["text"], &shown["error"]), (&Value::from(POLICY), &Value::Null));

    world.file("new.toml", HOLD);
    let refused = world.fails(6, ask(&["apply", "new.toml"]));
    assert!(refused.contains("of 1 machine something would change for 1"), "{refused}");
    let plan = world.ok(ask(&["apply", "new.toml", "--plan"]));
    assert!(plan.contains("lab: image lab/web:1") && plan.contains("all: hold: wait"), "{plan}");
    let plan = world.json(ask(&["apply", "new.toml", "--plan"]));
    assert_eq!((&plan["changed"], &plan["before"]), (&Value::from(1), &plan["in_force"]));
    assert_eq!((text(&world).as_str(), &plan["before"]), (POLICY, &shown["digest"]));

    let done = world.json(ask(&["apply", "new.toml", "--yes"]));
    assert_eq!((&done["changed"], &done["before"]), (&Value::from(1), &shown["digest"]));
    assert_eq!((text(&world).as_str(), world.ok(ask(&["show"])).as_str()), (HOLD, HOLD));
    assert_eq!(world.json(ask(&["show"]))["digest"], done["in_force"]);
    let told = server.check_in("ACME");
    assert!(matches!(&told.order, wire::Order::Hold(hold) if hold.reason == "wait"), "{told:?}");
    let same = world.ok(ask(&["apply", "new.toml", "--yes"]));
    assert!(same.contains("for 0 something changes"), "{same}");
    server.stop();
    let server = Server::start(&world);
    assert_eq!(world.ok(["--server", &server.url, "policy", "show"]), HOLD);
    server.stop();
}

#[test]
fn a_policy_that_is_wrong_stale_or_not_to_be_changed_is_refused() {
    let world = site();
    let server = Server::start(&world);
    let ask = |args| policy(&server.url, args);
    world.file("bad.toml", "[[rule]]\nname = 'a'\nwhen = 'cpu.cout > 1'\nhold = 'x'\n");
    let ended = world.run(ask(&["apply", "bad.toml", "--yes"]));
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stdout.contains("bad.toml:3:9: ") && ended.stdout.contains("cpu.count"));
    assert_eq!(world.run(ask(&["apply", "bad.toml", "--yes", "--json"])).code, 5);
    // The server knows the recipes that are beside its file, and that it takes no uploads.
    world.file("bad.toml", "[[rule]]\nname = 'a'\nrecipe = 'none.toml'\n");
    let ended = world.run(ask(&["apply", "bad.toml", "--yes"]));
    assert!(ended.code == 5 && ended.stdout.contains("none.toml"), "{ended:?}");
    world.fails(3, ask(&["apply", "absent.toml", "--yes"]));
    assert_eq!(text(&world), POLICY);

    world.file("new.toml", HOLD);
    // By hand, and not yet right: it is never in force, however slow the test is.
    world.file("policy.toml", "[[rule]]\n");
    let refused = world.fails(6, ask(&["apply", "new.toml", "--yes"]));
    assert!(refused.contains("changed or removed by hand"), "{refused}");
    assert_eq!(text(&world), "[[rule]]\n");
    server.stop();

    world.file("ingot.toml", CONFIG.replace("[policy]\nfile = \"policy.toml\"\n", ""));
    let server = Server::start(&world);
    let refused = world.fails(3, ["--server", &server.url, "policy", "show"]);
    assert!(refused.contains("the server has no policy file"), "{refused}");
    server.stop();
}
