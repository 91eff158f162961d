//! What is believed of what comes in from outside.

use std::collections::BTreeMap;

use wire::admin::LabelChange;
use wire::api::{self, CheckIn, EventBatch};

/// Longest check-in, in bytes: an inventory of the largest servers takes a tenth.
pub const CHECK_IN_BYTES_MAX: usize = 1 << 20;
/// Longest batch of events, in bytes: a thousand lines, every byte of them escaped.
pub const EVENTS_BYTES_MAX: usize = 8 << 20;
/// Most disks of one machine: more than any enclosure holds.
pub const DISKS_MAX: usize = 1024;
/// Most network cards of one machine; each is looked up when it checks in.
pub const NICS_MAX: usize = 128;
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
    let CheckIn { version, boot, agent, inventory } = asked;
    if *version != api::VERSION {
        return Err(format!(
            "the agent speaks version {version}, this controller version {}: boot the machine \
             with the agent that belongs to this server (`ingot serve` offers it)",
            api::VERSION
        ));
    }
    check_boot(boot)?;
    if agent.len() > LABEL_BYTES_MAX {
        return Err(format!("the agent's version is longer than {LABEL_BYTES_MAX} bytes"));
    }
    let (disks, nics) = (inventory.disks.len(), inventory.nics.len());
    if disks > DISKS_MAX {
        return Err(format!("an inventory of {disks} disks is not believed: {DISKS_MAX} are most"));
    }
    if nics > NICS_MAX {
        return Err(format!("an inventory of {nics} cards is not believed: {NICS_MAX} are most"));
    }
    Ok(())
}

/// Why a batch of events is not believed.
pub(crate) fn events(batch: &EventBatch) -> Result<(), String> {
    check_boot(&batch.boot)?;
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

fn check_boot(boot: &str) -> Result<(), String> {
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
        let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !first || !rest || name.len() > LABEL_BYTES_MAX {
            return Err(format!(
                "{name:?} cannot name a label: use letters, digits, '-' and '_', beginning with \
                 a letter or digit, at most {LABEL_BYTES_MAX}"
            ));
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
