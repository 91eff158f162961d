//! States and steps in words, each with its tone.

use serde::Serialize;
use wire::admin::{Answer, MachineState, RunState};
use wire::{FactValue, Step};

use super::Tone;
use super::table::Cell;

/// How a machine stands.
pub fn machine_state(state: MachineState) -> Cell {
    let tone = match state {
        MachineState::Held => Tone::Warn,
        MachineState::Deploying => Tone::Active,
        MachineState::Installed => Tone::Good,
        MachineState::Failed => Tone::Bad,
        MachineState::Retired => Tone::Dim,
        MachineState::Unknown => Tone::Plain,
    };
    Cell::toned(word(&state), tone)
}

/// How a run stands.
pub fn run_state(state: RunState) -> Cell {
    let tone = match state {
        RunState::Succeeded | RunState::AlreadyInstalled => Tone::Good,
        RunState::Failed => Tone::Bad,
        RunState::Retrying => Tone::Warn,
        RunState::Superseded => Tone::Dim,
        RunState::Unknown => Tone::Plain,
        _ => Tone::Active,
    };
    Cell::toned(word(&state), tone)
}

/// Values of a list that people are shown; there may be hundreds.
const LISTED: usize = 6;

/// What a machine reports of one fact; of many values the first few.
pub fn fact(value: &FactValue) -> String {
    match value {
        FactValue::List(values) if values.len() > LISTED => {
            let first = FactValue::List(values[..LISTED].to_vec()).to_string();
            let more = values.len() - LISTED;
            format!("{}, … {more} more: --json has all]", first.trim_end_matches(']'))
        }
        value => value.to_string(),
    }
}

/// An answer and where it comes from.
pub fn answer(answer: &Answer) -> String {
    format!("{} ({})", answer.value, word(&answer.source))
}

/// A step's name.
pub fn step_word(step: Step) -> String {
    word(&step)
}

/// The word that a value without fields has in JSON, so that tables and JSON agree.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_short_ones_are_not() {
        let list = |n: u64| FactValue::List((1..=n).map(FactValue::Number).collect());
        assert_eq!(fact(&list(6)), "[1, 2, 3, 4, 5, 6]");
        assert_eq!(fact(&list(9)), "[1, 2, 3, 4, 5, 6, … 3 more: --json has all]");
        assert_eq!(fact(&FactValue::Bool(true)), "true");
    }
}
