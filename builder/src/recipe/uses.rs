//! The facts of a machine that a recipe uses.

use std::collections::BTreeMap;

use super::USES_MAX;
use super::check::{Checked, mistake};
use super::raw::Text;

/// The environment variable by which a script is given a fact.
pub(crate) fn variable(path: &str) -> String {
    let sign = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("INGOT_{}", path.chars().map(sign).collect::<String>())
}

/// The paths, sorted, each once.
pub(super) fn uses(paths: &[Text]) -> Checked<Vec<String>> {
    if let Some(over) = paths.get(USES_MAX) {
        return mistake(over.span(), format!("more than {USES_MAX} facts"));
    }
    let mut variables: BTreeMap<String, &str> = BTreeMap::new();
    let mut uses = Vec::new();
    for path in paths {
        let text = path.as_ref().as_str();
        fact(path)?;
        match variables.insert(variable(text), text) {
            None => uses.push(text.to_owned()),
            Some(other) if other == text => {}
            Some(other) => {
                let variable = variable(text);
                let message = format!("{text:?} and {other:?} would both be {variable}");
                return mistake(path.span(), message);
            }
        }
    }
    uses.sort_unstable();
    Ok(uses)
}

fn fact(path: &Text) -> Checked<()> {
    let text = path.as_ref();
    if let Err(message) = wire::expr::known(text) {
        return mistake(path.span(), message);
    }
    let given = [("label", "a label"), ("answer", "an answer")];
    for (kind, what) in given {
        let name = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.'));
        if name.is_some_and(|name| !is_name(name)) {
            let message = format!("{text:?} is not {what}: expected one like \"{kind}.role\"");
            return mistake(path.span(), message);
        }
    }
    Ok(())
}

/// Whether a label or a question can have this name.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}
