//! Whom to tell where machines are.

use bootsvc_proto::Mac;
use bootsvc_proto::dhcp::Attachment;

/// Wants to know where in the network machines are.
pub trait Witness: Send + Sync + 'static {
    /// The card `mac` was given an address there. Told once the lease is on disk
    /// and before it is acknowledged: whoever is told hands it on, and neither
    /// waits for anything nor fails.
    fn attached(&self, mac: Mac, attachment: &Attachment);
}

/// Does not want to know.
impl Witness for () {
    fn attached(&self, _mac: Mac, _attachment: &Attachment) {}
}
