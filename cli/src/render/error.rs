//! An error with everything that led to it and what to do next.

use serde::Serialize;

use crate::exit::{code_of, next_of};

/// An error as `--json` prints it on standard error, on one line.
#[derive(Debug, Serialize)]
struct ErrorReport<'a> {
    error: String,
    causes: Vec<String>,
    next: Option<&'a str>,
    exit_code: u8,
}

/// One line of JSON.
pub fn as_json(error: &anyhow::Error) -> String {
    let (first, causes) = chain(error);
    let report = ErrorReport {
        error: first,
        causes,
        next: next_of(error),
        exit_code: code_of(error).number(),
    };
    serde_json::to_string(&report).unwrap_or_else(|_| String::from("{}"))
}

/// Lines for people: what failed, why, and what to do next.
pub fn as_text(error: &anyhow::Error, label: &str, dim: &dyn Fn(&str) -> String) -> String {
    let (first, causes) = chain(error);
    let mut text = format!("{label} {first}");
    for cause in causes {
        text.push_str(&format!("\n  {} {}", dim("because:"), indent(&cause)));
    }
    if let Some(next) = next_of(error) {
        text.push_str(&format!("\n  {} {}", dim("try:"), indent(next)));
    }
    text
}

/// What failed, and its causes from the nearest on. A cause that only repeats
/// what was said before it is left out.
fn chain(error: &anyhow::Error) -> (String, Vec<String>) {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.last().is_some_and(|before| before.ends_with(&cause)) {
            said.push(cause);
        }
    }
    let first = if said.is_empty() { String::new() } else { said.remove(0) };
    (first, said)
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;
    use crate::exit::{Code, Failure};

    fn sample() -> anyhow::Error {
        let failure = Failure::new(Code::NotFound, "open a.raw").next("check the path");
        Err::<(), _>(anyhow!("no such file")).context(failure).context("cannot import").unwrap_err()
    }

    #[test]
    fn people_read_the_chain_and_the_next_step() {
        assert_eq!(
            as_text(&sample(), "error:", &|text| text.to_owned()),
            "error: cannot import\n  because: open a.raw\n  because: no such file\n  try: check the path"
        );
    }

    #[test]
    fn scripts_read_the_same_on_one_line() {
        assert_eq!(
            as_json(&sample()),
            r#"{"error":"cannot import","causes":["open a.raw","no such file"],"next":"check the path","exit_code":3}"#
        );
    }

    #[test]
    fn a_cause_that_repeats_its_wrapper_is_said_once() {
        let error = Err::<(), _>(anyhow!("no such file")).context("open x: no such file");
        assert_eq!(
            as_text(&error.unwrap_err(), "error:", &|t| t.to_owned()),
            "error: open x: no such file"
        );
    }
}
