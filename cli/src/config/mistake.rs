//! A mistake in a TOML file, with its place and what was probably meant.

use crate::exit::{Code, Failure};

/// Turns a parser's error into `file:line:column`, the line itself and, for an
/// unknown key or word, the nearest known one.
pub fn explain(name: &str, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let message = error.message().trim_end();
    let (place, excerpt) = match error.span() {
        Some(span) => {
            let (line, column) = line_and_column(text, span.start);
            (format!("{name}:{line}:{column}"), excerpt(text, line, column))
        }
        None => (name.to_owned(), String::new()),
    };
    let (what, next) = match unknown(message) {
        Some((what, next)) => (what, next),
        None => (message.to_owned(), "examples/ingot.toml explains every key".to_owned()),
    };
    Failure::new(Code::Mistake, format!("{place}: {what}{excerpt}")).next(next).into()
}

/// Both count from 1; the column counts characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The line with a mark below the column, each on a new line. Both count from 1.
pub fn excerpt(text: &str, line: usize, column: usize) -> String {
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let gutter = " ".repeat(line.to_string().len());
    let pad = " ".repeat(column.saturating_sub(1));
    format!("\n{line} | {source}\n{gutter} | {pad}^")
}

/// An unknown key or word, and what was probably meant. serde names what it
/// found and what it knows in backquotes, what it found first.
fn unknown(message: &str) -> Option<(String, String)> {
    let kind = match message.split_once(" `")?.0 {
        "unknown field" => "key",
        "unknown variant" => "value",
        _ => return None,
    };
    let mut words = message.split('`').skip(1).step_by(2);
    let written = words.next()?;
    let known: Vec<_> = words.collect();
    let nearest = known
        .iter()
        .map(|word| (strsim::jaro_winkler(written, word), word))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > LIKENESS_MIN);
    let next = match nearest {
        Some((_, word)) => format!("did you mean `{word}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    Some((format!("unknown {kind} `{written}`"), next))
}

/// Below this, two words have nothing to do with each other.
const LIKENESS_MIN: f64 = 0.7;

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::super::parse;
    use crate::render::error::as_text;

    fn check(text: &str, expect: Expect) {
        let error = parse(text, "ingot.toml").unwrap_err();
        expect.assert_eq(&as_text(&error, "error:", &|t| t.to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_explained(text in "[\\[\\]a-z=\"#.é \\n-]{0,60}") {
            if let Err(error) = parse(&text, "x") {
                as_text(&error, "", &|t| t.to_owned());
            }
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
        check(
            "[http]\nlisen = \"0.0.0.0:80\"\n",
            expect![[r#"
            error: ingot.toml:2:1: unknown key `lisen`
            2 | lisen = "0.0.0.0:80"
              | ^
              try: did you mean `listen`?"#]],
        );
    }

    #[test]
    fn an_unknown_section_far_from_any_lists_them() {
        check(
            "[zzz]\nx = 1\n",
            expect![[r#"
            error: ingot.toml:1:2: unknown key `zzz`
            1 | [zzz]
              |  ^
              try: known here: http, store, state, boot, policy, build, log"#]],
        );
    }

    #[test]
    fn an_unknown_word_is_corrected() {
        check(
            "[log]\nformat = \"jsn\"\n",
            expect![[r#"
            error: ingot.toml:2:10: unknown value `jsn`
            2 | format = "jsn"
              |          ^
              try: did you mean `json`?"#]],
        );
    }

    #[test]
    fn a_wrong_type_shows_the_line() {
        check(
            "[http]\n\nlisten = 80\n",
            expect![[r#"
            error: ingot.toml:3:10: invalid type: integer `80`, expected socket address
            3 | listen = 80
              |          ^
              try: examples/ingot.toml explains every key"#]],
        );
    }

    #[test]
    fn broken_toml_shows_where() {
        check(
            "[http\nlisten = 80\n",
            expect![[r#"
            error: ingot.toml:1:6: unclosed table, expected `]`
            1 | [http
              |      ^
              try: examples/ingot.toml explains every key"#]],
        );
    }

    #[test]
    fn a_missing_key_names_its_section() {
        check(
            "[boot]\n",
            expect![[r#"
            error: ingot.toml:1:1: missing field `interface`
            1 | [boot]
              | ^
              try: examples/ingot.toml explains every key"#]],
        );
    }
}
