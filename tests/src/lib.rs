//! Whole-system scenarios: the built binaries, real firmware, real clients.
//!
//! The scenarios stand in `tests/tests/`; this library holds what they share.
//! It knows the product by its command line and its HTTP face only.
