//! Who made a thing that outlives a process: its pid and its start time, so that
//! a reused pid is not taken for the old owner.

use std::fs;

/// One process, as written into names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat`.
    started: u64,
}

impl Owner {
    /// The process that runs this code.
    pub(crate) fn current() -> Owner {
        let pid = std::process::id();
        Owner { pid, started: start_time(pid).unwrap_or(0) }
    }

    /// `PID-STARTED`, to be put into a name.
    pub(crate) fn tag(&self) -> String {
        format!("{}-{}", self.pid, self.started)
    }

    /// Reads the first two fields of `PID-STARTED-anything`.
    pub(crate) fn from_tag(tag: &str) -> Option<Owner> {
        let mut fields = tag.split('-');
        let pid = fields.next()?.parse().ok()?;
        let started = fields.next()?.parse().ok()?;
        Some(Owner { pid, started })
    }

    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold spaces.
    let after_command = stat.rsplit_once(')')?.1;
    after_command.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_living_from_the_dead() {
        let me = Owner::current();
        assert!(me.is_alive());
        assert_eq!(Owner::from_tag(&format!("{}-3", me.tag())), Some(me));
        assert!(!Owner { started: me.started + 1, ..me }.is_alive());
        assert_eq!(Owner::from_tag("what"), None);
    }
}
