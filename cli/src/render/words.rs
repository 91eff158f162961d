//! States and steps in words, each with its tone.

use serde::Serialize;
use wire::Step;
use wire::admin::{MachineState, RunState};

use super::Tone;
use super::table::Cell;

/// How a machine stands.
pub fn machine_state(state: MachineState) -> Cell {
    let tone = match state {
        MachineState::Held => Tone::Warn,
        MachineState::Deploying => Tone::Active,
        MachineState::Installed => Tone::Good,
        MachineState::Failed => Tone::Bad,
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
