//! Operators change the policy.

use std::io;
use std::path::PathBuf;

use wire::Digest;
use wire::admin::PolicyStatus;

use super::{Controller, ControllerError};
use crate::policy::ReplaceError;

impl Controller {
    /// Puts a text in place of the policy with this digest. It counts from the
    /// next check-in of each machine on; what they are doing is not interrupted.
    pub async fn replace_policy(
        &self,
        text: String,
        instead_of: Digest,
    ) -> Result<PolicyStatus, ControllerError> {
        let policy = self.policy.clone();
        // Waits for the disk, and is finished even if nobody waits for the answer.
        let replaced = tokio::task::spawn_blocking(move || policy.replace(&text, instead_of)).await;
        let broken = |error| {
            let path = PathBuf::from(self.policy.status().file);
            Err(ReplaceError::Unwritten { path, cause: io::Error::other(error) })
        };
        Ok(replaced.unwrap_or_else(broken)?)
    }
}
