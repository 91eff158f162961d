//! Machines, the policy that gives each its image, their runs, and the log of
//! what happened: the part of ingot that decides.
//!
//! What decides is pure: [`policy`] (facts to outcome), [`identity`] (which
//! machine is this), [`state`] (what machines and runs become) and [`boot`]
//! (loader or disk) do no I/O and take time and random names as arguments.
//! [`service`] records their answers in a database, and [`http`] is its face.
//! [`build`] has images made that no machine needed before, one build for each.
//! The transfer of images is not here: agents get them from the store.
//! Pages: `docs/controller.md`, `docs/policy.md`.

pub mod attachment;
pub mod boot;
pub mod build;
mod db;
pub mod http;
pub mod identity;
pub mod limits;
mod metrics;
pub mod policy;
pub mod service;
pub mod state;

pub use attachment::Attachment;
pub use boot::BootDecision;
pub use build::{BuildOptions, Builder, Building, Built, Plan, Progress, Tell};
pub use db::{Db, DbError};
pub use http::{router, system_clock};
pub use metrics::Metrics;
pub use policy::{Policy, PolicyError, PolicyFile};
pub use service::{
    Asking, BootAnswer, BootClient, Controller, ControllerError, Images, Random, SystemRandom,
};
