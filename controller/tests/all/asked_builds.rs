//! Questions whose answers decide about a recipe and about what it makes.

use wire::FactValue;
use wire::admin::AnswerSource;

use crate::answers::{asked, tell};
use crate::common::{Agent, World, deploy, hold};
use crate::workshop::image;

const POLICY: &str = r#"
[[question]]
name = "role"
text = "What is this machine for?"
choices = ["db", "web", "nothing"]

[[rule]]
name = "idle"
when = 'answer.role == "nothing"'
hold = "nobody needs this machine"

[[rule]]
name = "asked"
when = 'answer.role in ["db", "web"]'
recipe = "a.toml"

[[rule]]
name = "rest"
image = "base:1"
"#;

async fn world() -> World {
    let world = World::with(POLICY).await;
    world.workshop.change("a.toml", |recipe| recipe.uses = vec!["answer.role"]);
    world
}

/// A new machine is asked and answers; what it is told then, it waits for.
async fn answers(world: &mut World, number: u32, role: &str) -> (Agent, String) {
    let mut agent = Agent::new(number);
    assert_eq!(asked(&world.check_in(&mut agent).await).name, "role");
    let reason = hold(&tell(world, &mut agent, "role", Some(role)).await);
    (agent, reason)
}

#[tokio::test]
async fn an_answer_decides_the_rule_and_what_its_recipe_makes() {
    let mut world = world().await;
    let (mut db, reason) = answers(&mut world, 1, "db").await;
    assert!(reason.starts_with("rule \"asked\" wants built/a:"), "{reason}");
    assert!(reason.contains("(recipe a for answer.role \"db\")"), "{reason}");
    let (mut web, reason) = answers(&mut world, 2, "web").await;
    assert!(reason.contains("(recipe a for answer.role \"web\")"), "{reason}");
    let (_, reason) = answers(&mut world, 3, "nothing").await;
    assert_eq!(reason, "nobody needs this machine");
    let mut unasked = Agent::new(4);
    asked(&world.check_in(&mut unasked).await);
    world.workshop.end(9);
    world.built(2).await;

    // The same answer leads to the image that is there, without a build.
    let mut second = Agent::new(5);
    asked(&world.check_in(&mut second).await);
    let second_order = deploy(&tell(&mut world, &mut second, "role", Some("db")).await);
    let begun = world.workshop.begun();
    assert_eq!(begun.len(), 2, "{begun:?}");
    let made = |role: &str| {
        let facts = [("answer.role".to_owned(), FactValue::Text(role.into()))].into();
        image(world.workshop.configuration("a.toml", &facts).key)
    };
    let (db_image, web_image) = (made("db"), made("web"));
    assert_ne!(db_image, web_image);
    assert_eq!(second_order.system.image, db_image);
    assert_eq!(world.install(&mut db).await.system.image, db_image);
    assert_eq!(world.install(&mut web).await.system.image, web_image);

    // Both are shown, and outlive the server.
    world.restart().await;
    let why = world.controller.why(web.machine.as_ref().unwrap(), world.now).await.unwrap();
    let answer = why.questions[0].answer.as_ref().unwrap();
    assert_eq!((answer.value.as_str(), answer.source), ("web", AnswerSource::Console));
    assert_eq!(why.winner.as_deref(), Some("asked"));
    let build = &why.rules[1].builds[0];
    assert_eq!(build.image, Some(web_image));
    assert_eq!(build.configuration.facts["answer.role"], Some(FactValue::Text("web".into())));
    web.restart();
    assert_eq!(world.install(&mut web).await.system.image, web_image);
    assert_eq!(world.workshop.begun().len(), 2);
}

#[tokio::test]
async fn release_tries_again_the_failed_build_that_the_forgotten_answer_led_to() {
    let mut world = world().await;
    world.workshop.change("a.toml", |recipe| recipe.broken = Some("no such package"));
    let (mut agent, _) = answers(&mut world, 1, "db").await;
    world.workshop.end(1);
    world.failed(1).await;
    assert!(hold(&world.check_in(&mut agent).await).contains("could not be built"));
    world.workshop.change("a.toml", |recipe| recipe.broken = None);
    let id = agent.machine.clone().unwrap();
    world.controller.release(&id, world.now).await.unwrap();
    asked(&world.check_in(&mut agent).await);
    let reason = hold(&tell(&mut world, &mut agent, "role", Some("db")).await);
    assert!(!reason.contains("could not be built"), "{reason}");
    world.workshop.end(1);
    world.built(1).await;
    deploy(&world.check_in(&mut agent).await);
}

#[tokio::test]
async fn what_the_recipe_of_the_rule_uses_is_asked_though_it_changes_no_rule() {
    let policy = POLICY.replace("answer.role ==", "label.site == \"x\" and answer.role ==");
    let policy = policy.replace("answer.role in [\"db\", \"web\"]", "nic.count >= 1");
    let mut world = World::with(&policy).await;
    world.workshop.change("a.toml", |recipe| recipe.uses = vec!["answer.role"]);
    let mut agent = Agent::new(1);
    assert_eq!(asked(&world.check_in(&mut agent).await).name, "role");
    let id = agent.machine.clone().unwrap();
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert!(why.order.starts_with("hold: the policy asks \"What is this"), "{}", why.order);
    let reason = hold(&tell(&mut world, &mut agent, "role", None).await);
    assert!(reason.contains("nobody has answered yet"), "{reason}");
    assert_eq!(world.workshop.begun(), [], "nothing is built for what is not known");
    let reason = hold(&tell(&mut world, &mut agent, "role", Some("web")).await);
    assert!(reason.contains("(recipe a for answer.role \"web\")"), "{reason}");
    world.workshop.end(1);
    world.built(1).await;
    deploy(&world.check_in(&mut agent).await);
}
