//! `boot assets`.

use anyhow::Context as _;
use bootsvc_assets::{AssetOptions, Kernel, prepare};

use crate::args::server::Assets;
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::render::human::size;
use crate::render::progress::Reporter;

/// `ingot boot assets`.
pub fn assets(args: &Assets, context: &Context) -> anyhow::Result<()> {
    let out = args.out.display();
    if !args.agent.is_file() {
        let what = format!("there is no agent at {}", args.agent.display());
        return Err(Failure::new(Code::NotFound, what).next("build it, then name it with --agent"))
            .context("cannot make the boot assets");
    }
    let reporter = Reporter::new(&context.out);
    let made =
        prepare(&options(args, context)?, &mut |progress| reporter.step(&progress.to_string()))
            .with_context(|| format!("cannot make the boot assets in {out}"))?;
    reporter.finish();
    let manifest = made.manifest();
    if context.out.json {
        return context.out.document(manifest);
    }
    let bytes = manifest.vmlinuz.bytes + manifest.initramfs.bytes;
    context.out.line(format!(
        "{out}: {}, {} drivers, {}",
        manifest.origin,
        manifest.modules,
        size(bytes)
    ))
}

fn options(args: &Assets, context: &Context) -> anyhow::Result<AssetOptions> {
    let cache = context.cache_folder()?.join("kernels");
    let defaults = AssetOptions::new(&args.out, &cache, &args.agent);
    let kernel = match (&args.vmlinuz, &args.modules) {
        (Some(vmlinuz), Some(modules)) => {
            Kernel::Files { vmlinuz: vmlinuz.clone(), modules: modules.clone() }
        }
        _ => Kernel::Package(args.kernel.clone()),
    };
    let stub = args.stub.clone().unwrap_or_else(|| defaults.stub.clone());
    Ok(AssetOptions { kernel, stub, ..defaults })
}
