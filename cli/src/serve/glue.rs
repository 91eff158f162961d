//! What one service asks of another, in this process.

use std::sync::Arc;

use bootsvc_server::{Attachment, Client, Decide, Decision, Intent, Program};
use controller::{Asking, BootClient, BootDecision, Controller, Images};
use store_repo::{NameError, Repo};
use tracing::error;
use wire::{Digest, Reference};

use super::attached::shown;

/// The store tells the controller which image a reference means, and names those that
/// machines made.
pub struct StoreImages(pub Arc<Repo>);

impl Images for StoreImages {
    fn resolve<'a>(&'a self, reference: &'a Reference) -> Asking<'a, Option<Digest>> {
        Box::pin(async move {
            match self.0.resolve(reference).await {
                Ok(digest) => Ok(Some(digest)),
                Err(NameError::Unknown { .. }) => Ok(None),
                Err(other) => Err(other.into()),
            }
        })
    }

    fn name<'a>(&'a self, image: &'a Digest, reference: &'a Reference) -> Asking<'a, bool> {
        let image = Reference { tag: None, digest: Some(*image), ..reference.clone() };
        Box::pin(async move {
            match self.0.tag(&image, reference).await {
                Ok(_) => Ok(true),
                Err(NameError::Unknown { .. }) => Ok(false),
                Err(other) => Err(other.into()),
            }
        })
    }
}

/// The controller tells network boot what a machine starts.
pub struct Decider(pub Arc<Controller>);

impl Decide for Decider {
    fn decide<'a>(&'a self, client: &'a Client, place: Option<&'a Attachment>) -> Decision<'a> {
        Box::pin(async move {
            // An OS or an agent that wants an address boots nothing.
            if client.program == Program::Plain {
                return Intent::Disk;
            }
            let (mac, uuid) = (client.mac.to_string(), client.uuid.map(uuid));
            let asked = BootClient { mac, uuid, place: place.map(shown) };
            match self.0.boot_decision(&asked).await {
                Ok(answer) => match answer.decision {
                    BootDecision::Loader => Intent::Loader,
                    BootDecision::Disk => Intent::Disk,
                },
                Err(error) => {
                    let cause = anyhow::Error::new(error);
                    error!(mac = %client.mac, cause = %format!("{cause:#}"), "no boot decision");
                    Intent::Ignore
                }
            }
        })
    }
}

/// As text, in the order of the bytes on the wire.
fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_as_people_write_it() {
        let bytes = std::array::from_fn(|index| index as u8);
        assert_eq!(uuid(bytes), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
