//! Everything that is served, opened and checked, and nothing answered yet.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use controller::{BuildOptions, Controller, Db, Policy, PolicyError, PolicyFile, SystemRandom};
use ipnet::Ipv4Net;
use serde::Serialize;
use store_registry::{Limits, Uploads};
use store_repo::Repo;
use tokio::net::TcpListener;

use super::boot::{self, Prepared};
use super::builds::RecipeBuilder;
use super::glue::StoreImages;
use super::recipes::check_recipe;
use super::settings::Settings;
use super::{advertise, http, interface};
use crate::context::place;
use crate::exit::{Code, Failure};
use crate::fault::Doing;

/// File of the controller's records in the state folder.
const RECORDS: &str = "controller.db";

/// The opened parts of a server.
pub struct Parts {
    /// Images.
    pub repo: Arc<Repo>,
    /// Records.
    pub db: Db,
    /// Machines, policy, runs.
    pub controller: Arc<Controller>,
    /// The HTTP socket.
    pub listener: TcpListener,
    /// The URL at which machines reach it.
    pub url: String,
    /// Takes images, where that is wanted.
    pub uploads: Option<Arc<Uploads>>,
    /// Our address on the interface that machines start on.
    net: Option<Ipv4Net>,
}

impl Parts {
    /// Opens everything; the first mistake ends it.
    pub async fn open(settings: &Settings) -> anyhow::Result<Parts> {
        writable(&settings.state)?;
        let policy = policy(settings.policy.as_deref(), settings.uploads)?;
        // First of all: where another server listens, its records are left alone.
        let net = match &settings.boot {
            Some(boot) => Some(interface::address(&boot.interface, boot.address)?),
            None => None,
        };
        let listener = http::bind(settings.listen).await?;
        let bound = listener.local_addr().context("cannot tell which port was taken")?;
        let on_interface = net.map(|net| net.addr());
        let url = advertise::url(settings.advertise.as_deref(), bound, on_interface)?;
        let place = place(&settings.store)?;
        let repo = Repo::open_or_create(place).await.doing(|| "cannot open the store")?;
        let repo = Arc::new(repo);
        let db = Db::open(&settings.state.join(RECORDS)).await.with_context(|| {
            format!("cannot open {RECORDS} in the state folder {}", settings.state.display())
        })?;
        let images = Arc::new(StoreImages(repo.clone()));
        let random = Arc::new(SystemRandom);
        let builder = Arc::new(RecipeBuilder::new(repo.clone(), settings.build_cache.clone()));
        let options = BuildOptions { at_once: settings.builds_at_once, ..BuildOptions::default() };
        let controller = Controller::new(db.clone(), policy, images, random, builder, options);
        let controller = Arc::new(controller);
        let uploads = settings.uploads.then(|| Uploads::new(repo.clone(), Limits::default()));
        Ok(Parts { repo, db, controller, listener, url, uploads, net })
    }

    /// What network boot needs, where it is wanted. Leases are kept in `folder`.
    pub fn boot(&self, settings: &Settings, folder: &Path) -> anyhow::Result<Option<Prepared>> {
        match (&settings.boot, self.net) {
            (Some(boot), Some(net)) => {
                boot::prepare(boot, &settings.assets, net, &self.url, folder).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What will be served.
    pub fn report(&self, settings: &Settings) -> Report {
        Report {
            url: self.url.clone(),
            store: settings.store.clone(),
            uploads: settings.uploads,
            state: settings.state.display().to_string(),
            policy: settings.policy.as_ref().map(|path| path.display().to_string()),
            rules: self.controller.policy().current().rules().len(),
            interface: settings.boot.as_ref().map(|boot| boot.interface.clone()),
            network: self.net.map(|net| net.to_string()),
            assets: settings.boot.as_ref().map(|_| settings.assets.display().to_string()),
        }
    }
}

/// What `ingot serve --check` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where machines and operators ask.
    pub url: String,
    /// Folder or URL of the store.
    pub store: String,
    /// Whether everybody may store images in it.
    pub uploads: bool,
    /// Folder of the records.
    pub state: String,
    /// The policy's file.
    pub policy: Option<String>,
    /// How many rules it has.
    pub rules: usize,
    /// The interface that machines start on.
    pub interface: Option<String>,
    /// Our address there.
    pub network: Option<String>,
    /// Folder of the boot assets.
    pub assets: Option<String>,
}

impl Report {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let policy = match &self.policy {
            Some(file) => format!("{file}, rules: {}", self.rules),
            None => "none: every machine is held".to_owned(),
        };
        let boot = match (&self.interface, &self.network, &self.assets) {
            (Some(interface), Some(network), Some(assets)) => {
                format!("on {interface} as {network}, assets in {assets}")
            }
            _ => "no [boot] section: HTTP only".to_owned(),
        };
        let uploads = if self.uploads { ", takes uploads" } else { "" };
        vec![
            "everything is in place".to_owned(),
            format!("url     {}", self.url),
            format!("store   {}{uploads}", self.store),
            format!("state   {}", self.state),
            format!("policy  {policy}"),
            format!("boot    {boot}"),
        ]
    }
}

/// Makes the folder where it is missing, and writes to it once.
fn writable(folder: &Path) -> anyhow::Result<()> {
    let tried = fs::create_dir_all(folder)
        .and_then(|()| tempfile::Builder::new().prefix(".probe-").tempfile_in(folder))
        .map(drop);
    tried.map_err(|error| {
        let what = format!("cannot write to the state folder {}", folder.display());
        let next = "change its permissions, or set [state] folder to another";
        anyhow::Error::new(error).context(Failure::new(Code::Failed, what).next(next))
    })
}

fn policy(path: Option<&Path>, uploads: bool) -> anyhow::Result<PolicyFile> {
    let Some(path) = path else { return Ok(PolicyFile::fixed(Policy::default())) };
    let recipes = move |recipe: &Path| check_recipe(recipe, uploads);
    PolicyFile::open(path, recipes).map_err(|error| {
        let code = match &error {
            PolicyError::Wrong { .. } => Code::Mistake,
            PolicyError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            PolicyError::Read { .. } => Code::Failed,
        };
        let what = format!("cannot use the policy {}", path.display());
        let next = format!("`ingot policy check {}` shows each line", path.display());
        anyhow::Error::new(error).context(Failure::new(code, what).next(next))
    })
}
