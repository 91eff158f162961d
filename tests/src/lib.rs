//! Whole-system scenarios: the built binaries, real firmware, real clients.
//!
//! The scenarios stand in `tests/tests/`; this library holds what they and the
//! demo share. It knows the product by its command line and its HTTP face only.

mod product;
mod site;
mod stock;

pub use product::Product;
pub use site::{BOOT_PATIENCE, Site};
pub use stock::{Stock, recipe};
