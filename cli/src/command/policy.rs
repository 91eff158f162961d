//! `policy check` and `policy why`.

use std::path::Path;

use controller::policy::{BYTES_MAX, Policy};
use wire::admin::{BuildTrace, POLICY, PolicyProblem, QuestionTrace, RuleTrace, WHY, Why};
use wire::expr::{Compared, Verdict};

use crate::args::fleet::{PolicyCheck, PolicyWhy};
use crate::client::Server;
use crate::config;
use crate::context::Context;
use crate::exit::Code;
use crate::render::human::count;
use crate::render::words::{answer, fact};
use crate::render::{Out, Tone};
use crate::serve::check_recipe;

/// `ingot policy check`. Problems are the result, not a failure to find them.
pub fn check(args: &PolicyCheck, context: &Context) -> anyhow::Result<Code> {
    let file = args.file.display().to_string();
    let text = config::read(&args.file, "policy", BYTES_MAX as u64)?;
    let folder = args.file.parent().unwrap_or(Path::new(""));
    // Only the server knows whether it takes uploads: `ingot serve --check` looks at that.
    let report = Policy::check(&text, &|recipe| check_recipe(&folder.join(recipe), true));
    if context.out.json {
        context.out.document(&report)?;
    } else if report.problems.is_empty() {
        let rules = report.rules.join(", ");
        let what = count(report.rules.len() as u64, "rule");
        context.out.line(format!("{file}: {what}: {rules}").trim_end_matches(": "))?;
    } else {
        context.out.lines(problem_lines(&file, &text, &report.problems, &context.out))?;
    }
    Ok(if report.problems.is_empty() { Code::Done } else { Code::Mistake })
}

/// Every problem with its place and the line that it is in.
pub fn problem_lines(file: &str, text: &str, problems: &[PolicyProblem], out: &Out) -> Vec<String> {
    let lines = |problem: &PolicyProblem| {
        let PolicyProblem { line, column, message } = problem;
        let place = out.paint(Tone::Heading, &format!("{file}:{line}:{column}:"));
        let excerpt = config::excerpt(text, *line, *column);
        format!("{place} {message}{excerpt}")
    };
    problems.iter().map(lines).collect()
}

/// `ingot policy why`.
pub fn why(args: &PolicyWhy, context: &Context) -> anyhow::Result<()> {
    let server = Server::new(context.server_url());
    let what = format!("the reasons for machine {}", args.machine);
    let why: Why = server.ask(&what, &format!("{POLICY}{WHY}/{}", args.machine))?;
    if context.out.json {
        return context.out.document(&why);
    }
    context.out.lines(why_lines(&why, &context.out))
}

/// Every rule up to the one that decides; those after it were not needed.
fn why_lines(why: &Why, out: &Out) -> Vec<String> {
    let mut lines: Vec<_> = why.questions.iter().map(|q| question_line(q, out)).collect();
    for rule in &why.rules {
        let wins = why.winner.as_deref() == Some(rule.name.as_str());
        let decides = wins && why.deploy.is_none();
        lines.extend(rule_lines(rule, decides, out));
        if wins {
            break;
        }
    }
    if let Some(deploy) = &why.deploy {
        let line = format!("no rule decides: `ingot deploy` gave it {}", deploy.reference);
        lines.push(out.paint(Tone::Warn, &line));
    } else if why.winner.is_none() {
        lines.push(out.paint(Tone::Warn, "no rule matches"));
    }
    lines.push(format!("{}: {}", why.machine, why.order));
    lines
}

fn question_line(question: &QuestionTrace, out: &Out) -> String {
    let how = match (&question.answer, question.asked) {
        (Some(given), _) => out.paint(Tone::Good, &format!("is answered: {}", answer(given))),
        (None, true) => out.paint(Tone::Warn, "is not answered"),
        (None, false) => out.paint(Tone::Dim, "is not for this machine"),
    };
    format!("question {} {how}", out.paint(Tone::Heading, &question.name))
}

fn rule_lines(rule: &RuleTrace, decides: bool, out: &Out) -> Vec<String> {
    let (word, tone) = match (rule.matched, decides) {
        (true, true) => ("decides", Tone::Good),
        (true, false) => ("matches", Tone::Good),
        (false, _) => ("does not match", Tone::Dim),
    };
    let name = out.paint(Tone::Heading, &rule.name);
    let mut lines = vec![format!("rule {name} {}: {}", out.paint(tone, word), rule.outcome)];
    match &rule.when {
        Some(trace) => lines.extend(trace.comparisons.iter().map(|c| comparison_line(c, out))),
        None => lines.push("  always".to_owned()),
    }
    lines.extend(rule.limit.iter().map(|limit| format!("  limit: {limit}")));
    lines.extend(rule.builds.iter().flat_map(|build| build_lines(build, out)));
    lines
}

/// What a recipe of the rule makes for the machine, and whether it is there.
fn build_lines(build: &BuildTrace, out: &Out) -> Vec<String> {
    let BuildTrace { configuration, reference, image, standing } = build;
    let (what, tone) = match image {
        Some(image) => (format!("{reference} ({}): {standing}", image.short()), Tone::Good),
        None => (format!("{reference}: {standing}"), Tone::Warn),
    };
    vec![
        format!("  {configuration}"),
        format!("  key {}", configuration.key),
        format!("  {}", out.paint(tone, &what)),
    ]
}

fn comparison_line(compared: &Compared, out: &Out) -> String {
    let (word, tone) = match compared.verdict {
        Verdict::Pass => ("yes", Tone::Good),
        Verdict::Fail => ("no ", Tone::Bad),
        Verdict::NotReported => ("-  ", Tone::Warn),
        Verdict::Unknown => ("?  ", Tone::Warn),
    };
    let is_answer = compared.path.starts_with("answer.");
    let reported = match &compared.reported {
        Some(value) if is_answer => format!("the answer is {}", fact(value)),
        Some(value) => format!("the machine reports {}", fact(value)),
        None if is_answer => "it is not answered".to_owned(),
        None => "the machine does not report it".to_owned(),
    };
    let reported = out.paint(Tone::Dim, &format!("({reported})"));
    format!("  {} {}  {reported}", out.paint(tone, word), compared.comparison)
}

#[cfg(test)]
mod tests {
    use controller::policy::RecipeFacts;
    use expect_test::expect;
    use wire::admin::{Answer, AnswerSource};
    use wire::expr::Trace;
    use wire::{Configuration, Digest, FactValue};

    use super::*;

    #[test]
    fn the_example_is_right() {
        let report = Policy::check(include_str!("../../../examples/policy.toml"), &|_| {
            Ok(RecipeFacts::default())
        });
        assert_eq!((report.rules.len(), report.problems), (4, vec![]));
    }

    #[test]
    fn a_recipe_is_shown_with_its_key_and_whether_its_image_is_there() {
        let facts = [("label.role".to_owned(), Some(FactValue::Text("db".to_owned())))].into();
        let configuration = Configuration { key: Digest([0xab; 32]), recipe: "web".into(), facts };
        let reference = configuration.reference();
        let built = |image, standing: &str| {
            let standing = standing.to_owned();
            BuildTrace {
                configuration: configuration.clone(),
                reference: reference.clone(),
                image,
                standing,
            }
        };
        let rule = |name: &str, matched, build| RuleTrace {
            name: name.to_owned(),
            outcome: "recipe web.toml".to_owned(),
            matched,
            when: None,
            builds: vec![build],
            limit: Some("at most 2 at a time (1 now)".to_owned()),
        };
        let why = Why {
            machine: "m-1".parse().unwrap(),
            rules: vec![
                rule("a", false, built(None, "it was not built yet")),
                rule("b", true, built(Some(Digest([1; 32])), "it is in the store")),
            ],
            questions: vec![],
            winner: Some("b".to_owned()),
            deploy: None,
            order: "deploy built/web:abababababab (010101010101)".to_owned(),
        };
        expect![[r#"
            rule a does not match: recipe web.toml
              always
              limit: at most 2 at a time (1 now)
              recipe web for label.role "db"
              key blake3:abababababababababababababababababababababababababababababababab
              built/web:abababababab: it was not built yet
            rule b decides: recipe web.toml
              always
              limit: at most 2 at a time (1 now)
              recipe web for label.role "db"
              key blake3:abababababababababababababababababababababababababababababababab
              built/web:abababababab (010101010101): it is in the store
            m-1: deploy built/web:abababababab (010101010101)"#]]
        .assert_eq(&why_lines(&why, &Out::plain()).join("\n"));
    }

    #[test]
    fn reasons_stop_at_the_rule_that_decides() {
        let compared = |comparison: &str, reported, verdict| Compared {
            comparison: comparison.to_owned(),
            path: "cpu.count".to_owned(),
            reported,
            verdict,
        };
        let answered = |reported, verdict| Compared {
            path: "answer.role".to_owned(),
            ..compared("answer.role == \"db\"", reported, verdict)
        };
        let rule = |name: &str, matched, when| RuleTrace {
            name: name.to_owned(),
            outcome: "gets web:stable".to_owned(),
            matched,
            when,
            builds: vec![],
            limit: None,
        };
        let first = Trace {
            matched: false,
            comparisons: vec![
                compared("cpu.count >= 8", Some(FactValue::Number(2)), Verdict::Fail),
                compared("system.serial = \"x\"", None, Verdict::NotReported),
                answered(Some(FactValue::Text("db".to_owned())), Verdict::Pass),
                answered(None, Verdict::NotReported),
            ],
        };
        let question = |name: &str, asked, answer: Option<&str>| QuestionTrace {
            name: name.to_owned(),
            text: "What for?".to_owned(),
            asked,
            answer: answer.map(|value| Answer {
                value: value.to_owned(),
                source: AnswerSource::Console,
                at: 5,
            }),
        };
        let why = Why {
            machine: "m-1".parse().unwrap(),
            questions: vec![
                question("role", true, Some("db")),
                question("size", true, None),
                question("site", false, None),
            ],
            rules: vec![
                rule("big", false, Some(first)),
                rule("all", true, None),
                rule("x", true, None),
            ],
            winner: Some("all".to_owned()),
            deploy: None,
            order: "deploy web:stable".to_owned(),
        };
        expect![[r#"
            question role is answered: db (console)
            question size is not answered
            question site is not for this machine
            rule big does not match: gets web:stable
              no  cpu.count >= 8  (the machine reports 2)
              -   system.serial = "x"  (the machine does not report it)
              yes answer.role == "db"  (the answer is "db")
              -   answer.role == "db"  (it is not answered)
            rule all decides: gets web:stable
              always
            m-1: deploy web:stable"#]]
        .assert_eq(&why_lines(&why, &Out::plain()).join("\n"));
    }
}
