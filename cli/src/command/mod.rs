//! One function per command: resolved arguments in, library calls, results out.

pub mod apply;
pub mod boot;
pub mod build;
pub mod check;
pub mod deploy;
pub mod diff;
pub mod dry_run;
pub mod du;
pub mod export;
pub mod garbage;
pub mod image;
pub mod logs;
pub mod machine;
pub mod meta;
pub mod policy;
pub mod push;
pub mod run;
pub mod store;
pub mod write;
