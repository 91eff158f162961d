//! What is done to an image on a machine that it is for.

use wire::Making;

use super::check::{Checked, Checker, mistake};
use super::raw::{self, Text};
use super::uses::uses;
use super::{Script, Target};

/// Longest time for the script, in seconds: a day.
const TIMEOUT_SECS_MAX: u64 = 24 * 3600;
/// Its time unless the recipe says otherwise, in seconds.
const TIMEOUT_SECS: u32 = 3600;

impl Checker<'_> {
    /// `given` are the facts that the base uses: the script gets these too.
    pub(super) fn target(&self, raw: raw::Target, given: &[Text]) -> Checked<Target> {
        // Together as well: no two may have the same variable.
        uses(&given.iter().chain(&raw.uses).cloned().collect::<Vec<_>>())?;
        let timeout_secs = match &raw.timeout {
            None => TIMEOUT_SECS,
            Some(secs) => match u32::try_from(*secs.as_ref()) {
                Ok(value) if (1..=TIMEOUT_SECS_MAX).contains(secs.as_ref()) => value,
                _ => {
                    let message = format!("expected 1 to {TIMEOUT_SECS_MAX} seconds");
                    return mistake(secs.span(), message);
                }
            },
        };
        Ok(Target { script: self.text(&raw.script)?, uses: uses(&raw.uses)?, timeout_secs })
    }

    /// A script that is sent to a machine.
    fn text(&self, raw: &Text) -> Checked<Script> {
        let script = self.script(raw)?;
        let bytes_max = Making::SCRIPT_BYTES_MAX;
        if script.bytes.len() > bytes_max {
            return mistake(
                raw.span(),
                format!("a script for a machine has at most {bytes_max} bytes"),
            );
        }
        let text = std::str::from_utf8(&script.bytes).is_ok_and(|text| !text.contains('\0'));
        if !text {
            return mistake(raw.span(), "a script for a machine is text in UTF-8");
        }
        Ok(script)
    }
}
