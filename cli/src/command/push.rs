//! `push`.

use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;
use store_format::{ChunkTable, Extent};
use store_remote::{Client, FetchError, Options, PushError, PushProgress, Pushed, SystemTiming};
use store_repo::{ReadError, Reader};
use wire::upload::Stored;
use wire::{Reference, chain};

use super::store::open;
use crate::args::push::Push;
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::fault::Doing;
use crate::render::human::{count, duration, size};
use crate::render::progress::{Progress, Reporter};

/// What `push` reports with `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Its name there.
    reference: &'a Reference,
    server: &'a str,
    #[serde(flatten)]
    stored: Stored,
    sent_chunks: u64,
    sent_bytes: u64,
}

/// `ingot push`.
pub async fn push(args: &Push, context: &Context) -> anyhow::Result<()> {
    let server = args.remote.server.as_str();
    let what = || format!("cannot push {} to {server}", args.reference);
    let name = name(args).with_context(what)?;
    let repo = open(context).await?;
    let digest = repo.resolve(&args.reference).await.doing(what)?;
    let envelope = repo.envelope(&digest).await.doing(what)?;
    let table = repo.table(&digest).await.doing(what)?;
    let reader = repo.reader(&digest, 0..envelope.disk_bytes).await.doing(what)?;
    let reporter = Arc::new(Reporter::new(&context.out).with_logs(true));
    let client = client(server, &reporter).doing(what)?;
    reporter.step(&format!("sending {} to {server}", args.reference));
    let work = {
        let (reporter, name) = (Arc::clone(&reporter), name.clone());
        let mut told = Told { reporter, verifying: false };
        let mut source = Chunks::new(reader, &table);
        move || {
            let source = |number| source.read(number);
            client.push(&envelope, &table, Some(&name), source, |progress| told.hear(progress))
        }
    };
    let pushed = tokio::task::spawn_blocking(work).await;
    let pushed: Result<Pushed, PushError<ReadError>> = pushed.with_context(what)?;
    let Pushed { stored, sent_chunks, sent_bytes } = pushed.doing(what)?;
    reporter.finish();
    if context.out.json {
        let report = Report { reference: &name, server, stored, sent_chunks, sent_bytes };
        return context.out.document(&report);
    }
    context.out.line(format!(
        "{server}/{name} is {}: disk of {}, {} of content, {} sent in {}",
        stored.digest.short(),
        size(stored.disk_bytes),
        size(stored.data_bytes),
        size(sent_bytes),
        count(sent_chunks, "chunk"),
    ))
}

/// What the image is called there.
fn name(args: &Push) -> Result<Reference, Failure> {
    let here = &args.reference;
    let name = match (&args.remote.reference, &here.tag, &here.digest) {
        (Some(there), _, _) => there.clone(),
        (None, None, Some(_)) => {
            return Err(Failure::new(Code::Usage, "a digest is no name for the image there")
                .next(format!("say one: {}/NAME:TAG", args.remote.server)));
        }
        (None, _, _) => here.clone(),
    };
    Ok(Reference { tag: Some(name.tag_or_latest().to_owned()), digest: None, ..name })
}

fn client(server: &str, reporter: &Arc<Reporter>) -> Result<Client, FetchError> {
    let client = Client::new(server, Options::default(), Arc::new(SystemTiming::default()))?;
    let reporter = Arc::clone(reporter);
    Ok(client.on_retry(move |error, wait| {
        let text = format!("{}; trying again in {}", chain(error), duration(wait));
        reporter.report(&Progress::Log { text: text.into() });
    }))
}

/// Hands on how far a push is.
struct Told {
    reporter: Arc<Reporter>,
    verifying: bool,
}

impl Told {
    fn hear(&mut self, progress: PushProgress) {
        match progress {
            PushProgress::Sending { done_bytes, total_bytes } => {
                self.verifying = false;
                self.reporter.bytes(done_bytes, Some(total_bytes));
            }
            PushProgress::Verifying { done_bytes, total_bytes } => {
                if !self.verifying {
                    self.reporter.step("the server reads it back");
                    self.verifying = true;
                }
                self.reporter.bytes(done_bytes, Some(total_bytes));
            }
        }
    }
}

/// The chunks of an image, by number.
struct Chunks {
    reader: Reader,
    /// Where each begins on the disk, and its bytes.
    places: Vec<(u64, u32)>,
}

impl Chunks {
    fn new(reader: Reader, table: &ChunkTable) -> Chunks {
        let mut seen = std::collections::HashSet::new();
        let (mut places, mut offset) = (Vec::new(), 0);
        for extent in table.regions.iter().flatten() {
            if let Extent::Chunk { id, bytes } = *extent
                && seen.insert(id)
            {
                places.push((offset, bytes));
            }
            offset += extent.bytes();
        }
        Chunks { reader, places }
    }

    fn read(&mut self, number: usize) -> Result<Vec<u8>, ReadError> {
        let (offset, bytes) = *self.places.get(number).ok_or(ReadError::Broken)?;
        let mut plain = vec![0; bytes as usize];
        self.reader.read_at(&mut plain, offset)?;
        Ok(plain)
    }
}
