//! Whom to ask what a machine shall boot.

use std::future::Future;
use std::pin::Pin;

use bootsvc_proto::dhcp::Attachment;
use bootsvc_proto::{Client, Intent};

/// A decision in the making.
pub type Decision<'a> = Pin<Box<dyn Future<Output = Intent> + Send + 'a>>;

/// Knows what is wanted of machines. Asked for every DHCP request but those
/// that give an address back, and for every script that iPXE fetches; an
/// answer that takes longer than two seconds counts as [`Intent::Ignore`], and
/// the machine asks again.
pub trait Decide: Send + Sync + 'static {
    /// What is wanted of `client`, which is at this place; none where its request
    /// does not show that.
    fn decide<'a>(&'a self, client: &'a Client, place: Option<&'a Attachment>) -> Decision<'a>;
}

/// The same for every machine.
impl Decide for Intent {
    fn decide<'a>(&'a self, _client: &'a Client, _place: Option<&'a Attachment>) -> Decision<'a> {
        Box::pin(std::future::ready(*self))
    }
}
