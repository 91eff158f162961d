//! What is believed of what comes in from outside.

use std::collections::BTreeMap;

use wire::admin::LabelChange;
use wire::api::{self, CheckIn, EventBatch};
use wire::{AskOrder, FactValue, Inventory};

/// Longest check-in, in bytes: as many disks and devices as are believed fit in.
pub const CHECK_IN_BYTES_MAX: usize = 4 << 20;
/// Longest batch of events, in bytes: a thousand lines, every byte of them escaped.
pub const EVENTS_BYTES_MAX: usize = 8 << 20;
/// Longest text of an inventory, in bytes.
pub const FACT_BYTES_MAX: usize = 1024;
/// Most facts of which a machine says why it does not report them.
pub const MISSING_MAX: usize = 256;
/// Most answers in one check-in.
pub const ANSWERS_MAX: usize = 32;
/// Most labels of one machine.
pub const LABELS_MAX: usize = 64;
/// Longest name and value of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// Longest reason of a hold, in bytes: it is shown on a console.
pub const REASON_BYTES_MAX: usize = 1024;
/// Largest number or time believed: what SQL can count, and more than ever happens.
const NUMBER_MAX: u64 = i64::MAX.unsigned_abs();

/// Why a check-in is not believed.
pub(crate) fn check_in(asked: &CheckIn) -> Result<(), String> {
    let CheckIn { version, boot, agent, inventory, answers } = asked;
    if *version != api::VERSION {
        return Err(format!(
            "the agent speaks version {version}, this controller version {}: boot the machine \
             with the agent that belongs to this server (`ingot serve` offers it)",
            api::VERSION
        ));
    }
    self::boot(boot)?;
    if agent.len() > LABEL_BYTES_MAX {
        return Err(format!("the agent's version is longer than {LABEL_BYTES_MAX} bytes"));
    }
    check_inventory(inventory)?;
    check_answers(answers)
}

/// What is read as JSON ends at these limits already; an inventory may come another way.
fn check_inventory(inventory: &Inventory) -> Result<(), String> {
    let partitions = inventory.disks.iter().map(|disk| disk.partitions.len()).max();
    let counts = [
        ("disks", inventory.disks.len(), Inventory::DISKS_MAX),
        ("cards", inventory.nics.len(), Inventory::NICS_MAX),
        ("PCI devices", inventory.pci.len(), Inventory::DEVICES_MAX),
        ("USB devices", inventory.usb.len(), Inventory::DEVICES_MAX),
        ("partitions on one disk", partitions.unwrap_or(0), Inventory::PARTITIONS_MAX),
        ("words for a processor", inventory.cpu.flags.len(), Inventory::FLAGS_MAX),
        ("facts that are missing", inventory.missing.len(), MISSING_MAX),
    ];
    for (what, count, max) in counts {
        if count > max {
            return Err(format!("an inventory of {count} {what} is not believed: {max} are most"));
        }
    }
    let too_long = |path: &str, bytes: usize| {
        format!("{path} of {bytes} bytes is not believed: {FACT_BYTES_MAX} are most")
    };
    for (path, value) in inventory.facts() {
        if let Some(bytes) = longest(&value).filter(|&bytes| bytes > FACT_BYTES_MAX) {
            return Err(too_long(&path, bytes));
        }
    }
    let bytes = |(path, why): (&String, &String)| path.len().max(why.len());
    match inventory.missing.iter().map(bytes).max().filter(|&bytes| bytes > FACT_BYTES_MAX) {
        Some(bytes) => Err(too_long("the reason why a fact is missing", bytes)),
        None => Ok(()),
    }
}

/// Bytes of the longest text in a value.
fn longest(value: &FactValue) -> Option<usize> {
    match value {
        FactValue::Text(text) => Some(text.len()),
        FactValue::List(values) => values.iter().filter_map(longest).max(),
        FactValue::Bool(_) | FactValue::Number(_) => None,
    }
}

fn check_answers(answers: &BTreeMap<String, Option<String>>) -> Result<(), String> {
    if answers.len() > ANSWERS_MAX {
        let count = answers.len();
        return Err(format!("{count} answers at once are not believed: {ANSWERS_MAX} are most"));
    }
    for (question, answer) in answers {
        if let Some(problem) = name("a question", question) {
            return Err(problem);
        }
        let max = AskOrder::ANSWER_BYTES_MAX;
        let odd = |answer: &String| answer.len() > max || answer.contains(char::is_control);
        if answer.as_ref().is_some_and(odd) {
            return Err(format!(
                "the answer to {question:?} is not one line of at most {max} bytes"
            ));
        }
    }
    Ok(())
}

/// Why this cannot name something that is a part of a fact's path.
pub(crate) fn name(what: &str, name: &str) -> Option<String> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let wrong = !first || !rest || name.len() > LABEL_BYTES_MAX;
    wrong.then(|| {
        format!(
            "{name:.40?} cannot name {what}: use letters, digits, '-' and '_', beginning with a \
             letter or digit, at most {LABEL_BYTES_MAX}"
        )
    })
}

/// Why a batch of events is not believed.
pub(crate) fn events(batch: &EventBatch) -> Result<(), String> {
    boot(&batch.boot)?;
    let (count, max) = (batch.events.len(), EventBatch::EVENTS_MAX);
    if count > max {
        return Err(format!("a batch of {count} events: {max} are most, send several"));
    }
    let odd = |event: &&wire::Event| {
        event.seq == 0 || event.seq > NUMBER_MAX || event.uptime_ms > NUMBER_MAX
    };
    match batch.events.iter().find(odd) {
        Some(event) => Err(format!(
            "event {} at {} ms is not believed: numbers count from 1 and stay below 2^63",
            event.seq, event.uptime_ms
        )),
        None => Ok(()),
    }
}

/// Why this does not name a boot.
pub(crate) fn boot(boot: &str) -> Result<(), String> {
    let hex = boot.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if boot.len() == 32 && hex {
        return Ok(());
    }
    Err(format!("{:.40?} does not name a boot: expected 32 lower-case hex digits", boot))
}

/// Why a change of labels is not taken; else the labels after it.
pub(crate) fn labels(
    mut labels: BTreeMap<String, String>,
    change: &LabelChange,
) -> Result<BTreeMap<String, String>, String> {
    for name in &change.remove {
        labels.remove(name);
    }
    for (name, value) in &change.set {
        if let Some(problem) = self::name("a label", name) {
            return Err(problem);
        }
        if value.len() > LABEL_BYTES_MAX || value.contains(char::is_control) {
            return Err(format!(
                "the value of label {name:?} is not one line of at most {LABEL_BYTES_MAX} bytes"
            ));
        }
        labels.insert(name.clone(), value.clone());
    }
    if labels.len() > LABELS_MAX {
        return Err(format!("{} labels: a machine has at most {LABELS_MAX}", labels.len()));
    }
    Ok(labels)
}

/// Why the reason of a hold is not taken.
pub(crate) fn reason(reason: &str) -> Result<(), String> {
    let fine = !reason.trim().is_empty()
        && reason.len() <= REASON_BYTES_MAX
        && !reason.contains(char::is_control);
    if fine {
        return Ok(());
    }
    Err(format!("the reason of a hold is one line of at most {REASON_BYTES_MAX} bytes"))
}
