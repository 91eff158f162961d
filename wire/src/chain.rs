//! Errors as logs and events tell them.

use std::error::Error;

/// An error and its causes in one line: `cannot read a: no such file`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent wrappers repeat their cause.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn every_cause_is_said_once() {
        let inner = Layer("no such file", None);
        let wrapper = Layer("cannot read a: no such file", Some(Box::new(inner)));
        let error = Layer("import failed", Some(Box::new(wrapper)));
        assert_eq!(chain(&error), "import failed: cannot read a: no such file");
    }
}
