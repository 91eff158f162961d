//! Questions of the policy, answered by the person at the machine.

use std::collections::BTreeMap;

use controller::Policy;
use controller::policy::RecipeFacts;
use wire::admin::{Answer, AnswerSource, HoldRequest, LabelChange, MachineState};
use wire::api::CheckedIn;
use wire::{AskOrder, FactValue, Facts, Order};

use crate::common::{Agent, World, deploy, hold};

const POLICY: &str = r#"
[[question]]
name = "role"
text = "What is this machine for?"
choices = ["db", "web"]
wait = "2 min"

[[question]]
name = "size"
text = "Which size?"
default = "small"
when = 'answer.role == "db"'

[[rule]]
name = "labelled"
when = 'label.role == "web"'
image = "web:2"

[[rule]]
name = "web"
when = 'system.manufacturer == "Acme" and answer.role == "web"'
image = "web:2"

[[rule]]
name = "large"
when = 'answer.role == "db" and answer.size like "l*"'
hold = "large databases are installed by hand"

[[rule]]
name = "db"
when = 'answer.role == "db"'
image = "base:1"
"#;

pub fn asked(answer: &CheckedIn) -> AskOrder {
    match &answer.order {
        Order::Ask(ask) => ask.clone(),
        other => panic!("expected a question, got {other:?}"),
    }
}

fn told(name: &str, answer: Option<&str>) -> BTreeMap<String, Option<String>> {
    BTreeMap::from([(name.to_owned(), answer.map(str::to_owned))])
}

/// Checks in with these answers, as an agent does once.
pub async fn tell(
    world: &mut World,
    agent: &mut Agent,
    name: &str,
    told_: Option<&str>,
) -> CheckedIn {
    agent.answers = told(name, told_);
    let answer = world.check_in(agent).await;
    agent.answers.clear();
    answer
}

#[tokio::test]
async fn an_answer_becomes_a_fact_with_its_source_and_outlives_the_boot() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    let ask = asked(&world.check_in(&mut agent).await);
    assert_eq!((ask.name.as_str(), ask.wait_secs, ask.default), ("role", 120, None));
    assert_eq!(ask.choices, ["db", "web"]);
    let id = agent.machine.clone().unwrap();
    let waits = world.controller.machine(&id).await.unwrap();
    assert_eq!(waits.summary.state, MachineState::Held);
    let reason = waits.summary.reason.unwrap();
    assert!(reason.starts_with("the policy asks \"What is this machine for?\" at"), "{reason}");

    let order = deploy(&tell(&mut world, &mut agent, "role", Some("web")).await);
    assert_eq!(order.system.reference.to_string(), "web:2");
    let at = world.now;
    let known = world.controller.machine(&id).await.unwrap();
    let answer = Answer { value: "web".into(), source: AnswerSource::Console, at };
    assert_eq!(known.answers, BTreeMap::from([("role".to_owned(), answer.clone())]));
    assert_eq!(known.facts["answer.role"], FactValue::Text("web".into()));
    let why = world.controller.why(&id, world.now).await.unwrap();
    assert_eq!(why.winner.as_deref(), Some("web"));
    assert_eq!((why.questions[0].asked, &why.questions[0].answer), (true, &Some(answer)));
    assert_eq!((why.questions[1].asked, &why.questions[1].answer), (false, &None));

    // The reply was lost, the machine restarted, the controller restarted: no second question.
    assert_eq!(deploy(&tell(&mut world, &mut agent, "role", Some("web")).await), order);
    agent.restart();
    world.restart().await;
    assert_eq!(deploy(&world.check_in(&mut agent).await).system.reference, order.system.reference);
    assert_eq!(world.controller.machine(&id).await.unwrap().answers["role"].at, at);
}

#[tokio::test]
async fn nobody_answers_and_the_machine_waits_or_takes_the_default() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    asked(&world.check_in(&mut agent).await);
    let reason = hold(&tell(&mut world, &mut agent, "role", None).await);
    assert!(reason.contains("nobody has answered yet: it asks again every"), "{reason}");
    // And it does.
    assert_eq!(asked(&world.check_in(&mut agent).await).name, "role");
    // The answer leads to the second question, which has a default.
    let ask = asked(&tell(&mut world, &mut agent, "role", Some("db")).await);
    assert_eq!((ask.name.as_str(), ask.default.as_deref()), ("size", Some("small")));
    let order = deploy(&tell(&mut world, &mut agent, "size", None).await);
    assert_eq!(order.system.reference.to_string(), "base:1");
    let id = agent.machine.clone().unwrap();
    let known = world.controller.machine(&id).await.unwrap();
    let size = &known.answers["size"];
    assert_eq!((size.value.as_str(), size.source), ("small", AnswerSource::Default));
}

#[tokio::test]
async fn what_is_no_answer_is_not_taken() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    asked(&world.check_in(&mut agent).await);
    for (name, answer) in [("role", "cache"), ("role", "WEB"), ("role", "1"), ("site", "x")] {
        let ask = asked(&tell(&mut world, &mut agent, name, Some(answer)).await);
        assert_eq!(ask.name, "role", "{name} {answer}");
    }
    let long = "x".repeat(256);
    for (name, answer, text) in [
        ("a b", "x", "\"a b\" cannot name a question"),
        ("role", "a\nb", "the answer to \"role\" is not one line of at most 255 bytes"),
        ("role", long.as_str(), "the answer to \"role\" is not one line of at most 255 bytes"),
    ] {
        agent.answers = told(name, Some(answer));
        let error = world.controller.check_in(&agent.asks(), 1).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    agent.answers = (0..33).map(|n| (n.to_string(), None)).collect();
    let error = world.controller.check_in(&agent.asks(), 1).await.unwrap_err().to_string();
    assert_eq!(error, "33 answers at once are not believed: 32 are most");
}

#[tokio::test]
async fn release_forgets_the_answers_and_a_held_machine_asks_nobody() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    asked(&world.check_in(&mut agent).await);
    deploy(&tell(&mut world, &mut agent, "role", Some("web")).await);
    let id = agent.machine.clone().unwrap();
    let request = HoldRequest { reason: "in repair".into() };
    world.controller.hold(&id, &request).await.unwrap();
    let released = world.controller.release(&id, 5).await.unwrap();
    assert_eq!(released.answers, BTreeMap::new());
    asked(&world.check_in(&mut agent).await);

    world.controller.hold(&id, &request).await.unwrap();
    assert_eq!(hold(&world.check_in(&mut agent).await), "in repair");
}

#[tokio::test]
async fn a_label_that_decides_spares_the_question() {
    let mut world = World::with(POLICY).await;
    let mut agent = Agent::new(1);
    asked(&world.check_in(&mut agent).await);
    let set = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
    let id = agent.machine.clone().unwrap();
    let change = LabelChange { set, remove: vec![] };
    world.controller.label(&id, &change).await.unwrap();
    let order = deploy(&world.check_in(&mut agent).await);
    assert_eq!(order.system.reference.to_string(), "web:2");
}

fn next(policy: &Policy, pairs: &[(&str, &str)]) -> Option<String> {
    let facts: Facts = pairs
        .iter()
        .map(|(path, value)| ((*path).to_owned(), FactValue::Text((*value).to_owned())))
        .collect();
    policy.unanswered(&facts).map(|question| question.ask.name.clone())
}

#[test]
fn only_what_can_change_the_outcome_is_asked() {
    let policy = Policy::parse(POLICY).unwrap();
    let maker = ("system.manufacturer", "Acme");
    let table: [(&[_], _); 6] = [
        (&[maker], Some("role")),
        (&[], Some("role")),
        (&[("label.role", "web")], None),
        (&[maker, ("answer.role", "web")], None),
        (&[maker, ("answer.role", "db")], Some("size")),
        (&[maker, ("answer.role", "db"), ("answer.size", "large")], None),
    ];
    for (facts, expected) in table {
        assert_eq!(next(&policy, facts).as_deref(), expected, "{facts:?}");
    }
    // A question for some machines only: the others do not wait for it.
    let text = POLICY.replace("wait = \"2 min\"", "when = 'system.manufacturer == \"Acme\"'");
    let policy = Policy::parse(&text).unwrap();
    assert_eq!(next(&policy, &[maker]).as_deref(), Some("role"));
    assert_eq!(next(&policy, &[("system.manufacturer", "Other")]), None);
}

fn problems(text: &str) -> String {
    let line = |p: &wire::admin::PolicyProblem| format!("{}:{}: {}", p.line, p.column, p.message);
    match Policy::parse(text) {
        Ok(_) => "none".to_owned(),
        Err(problems) => problems.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn what_a_recipe_uses_is_asked_for_and_has_to_be() {
    let recipe = |_: &std::path::Path| {
        let uses = vec!["answer.role".to_owned(), "cpu.arch".to_owned()];
        Ok(RecipeFacts { uses, ..RecipeFacts::default() })
    };
    let rule = "[[rule]]\nname = 'r'\nrecipe = 'web.toml'\n";
    let problems = Policy::check(rule, &recipe).problems;
    let seen: Vec<_> = problems.iter().map(|p| (p.line, p.column, p.message.as_str())).collect();
    assert_eq!(seen, [(3, 10, "a question named \"role\" is needed for answer.role")]);
    let asked = format!("[[question]]\nname = 'role'\ntext = 'Which?'\n{rule}");
    assert_eq!(Policy::check(&asked, &recipe).problems, []);
    assert_eq!(
        Policy::check(&asked, &|_| Ok(RecipeFacts::default())).problems.len(),
        1,
        "never asked"
    );
}

#[test]
fn a_wrong_question_is_told_with_its_place_and_what_is_allowed() {
    let rule = "[[rule]]\nname = 'r'\nwhen = 'answer.a == \"x\"'\nhold = 'y'\n";
    let question = |more: &str| format!("[[question]]\nname = 'a'\ntext = 'A?'\n{more}\n{rule}");
    assert_eq!(problems(&question("")), "none");
    assert_eq!(problems(&question("choices = ['x', 'y']\ndefault = 'x'\nwait = '5 min'")), "none");
    let many: Vec<_> = (0..21).map(|n| format!("'{n}'")).collect();
    let table = [
        (rule.to_owned(), "3:8: a question named \"a\" is needed for answer.a"),
        (
            "question = 4".to_owned(),
            "1:12: questions are written as [[question]], with two brackets",
        ),
        (
            "[[question]]\nname = 'a'\ntext = 'A?'\n".to_owned(),
            "1:1: question \"a\" is never asked: no rule refers to answer.a, as in when = 'answer.a == \"…\"'",
        ),
        (
            format!("[[question]]\n{rule}"),
            "1:1: this question has no name: add name = \"…\"\n\
             1:1: this question has no text: add text = \"…\", which the person at the machine reads\n\
             4:8: a question named \"a\" is needed for answer.a",
        ),
        (question("wait = '5'"), "4:8: wait is written as \"60 s\" or \"5 min\", at most 60 min"),
        (
            question("wait = '61 min'"),
            "4:8: wait is written as \"60 s\" or \"5 min\", at most 60 min",
        ),
        (question("wait = 'min'"), "4:8: wait is written as \"60 s\" or \"5 min\", at most 60 min"),
        (question("choices = 'x'"), "4:11: choices is a list of texts, such as [\"db\", \"web\"]"),
        (question("choices = []"), "4:11: choices has 1 to 20 texts; without it, any is taken"),
        (
            question(&format!("choices = [{}]", many.join(","))),
            "4:11: choices has 1 to 20 texts; without it, any is taken",
        ),
        (question("choices = ['x', 'X']"), "4:17: the choice \"X\" stands there twice"),
        (question("choices = [' x']"), "4:12: the choice \" x\" begins or ends with a blank"),
        (
            question("choices = ['y']\ndefault = 'x'"),
            "5:11: the default \"x\" is none of the choices",
        ),
        (
            question("when = 'answer.a == \"x\"'"),
            "4:8: an earlier question named \"a\" is needed for answer.a",
        ),
        (
            question("chioces = ['x']"),
            "4:1: unknown key \"chioces\": did you mean choices? a question has name, text, choices, default, wait, when",
        ),
        (
            format!("{}{}", "[[question]]\nname = 'a'\ntext = 'A?'\n", question("")),
            "5:8: a question named \"a\" stands before",
        ),
    ];
    for (text, expected) in table {
        let found = problems(&text);
        // What a question that is not taken leads to follows it.
        assert!(found.starts_with(expected), "{text}\n{found}");
    }
    let name = question("").replace("'a'", "'a b'");
    assert!(problems(&name).starts_with("2:8: \"a b\" cannot name a question: use letters"));
}
