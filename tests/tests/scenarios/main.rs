//! Everything at once, as on a real site: the built binaries, a network of its
//! own, and machines with real firmware that are switched on in it.
//!
//! Needs root, for namespaces and TAP devices.

mod demand;
mod fleet;
mod install;
mod relay;
mod serve;
mod sets;
mod support;
