//! Names of records: machines and runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: expected 1 to 64 letters, digits, '-' or '_'")]
pub struct IdError {
    text: String,
    what: &'static str,
}

/// Longest identifier accepted, in bytes: it becomes a file name and a URL segment.
const LEN_MAX: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                let ok = (1..=LEN_MAX).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                if ok {
                    Ok($name(text.to_owned()))
                } else {
                    Err(IdError { text: text.to_owned(), what: $what })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<$name, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// The durable record of one computer.
    MachineId,
    "a machine id"
);
id!(
    /// One deployment on one machine.
    RunId,
    "a run id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_could_leave_a_folder_or_a_url_segment() {
        for text in ["", ".", "../x", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(text.parse::<MachineId>().is_err(), "{text:?}");
        }
        assert_eq!("m-7f3k".parse::<MachineId>().map(|id| id.to_string()), Ok("m-7f3k".into()));
    }
}
