//! tmp
use anyhow::Result;
use tools::{Cache, Mkosi, Toolbox, mirror::Mirrors};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    tools_only: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let cache = Cache::locate()?;
    let mkosi = Mkosi::prepare(&cache, &Mirrors::of_host()?)?;
    std::fs::create_dir_all(".build/logs")?;
    Toolbox::prepare(&cache, &mkosi, std::fs::File::create(".build/logs/tools.log")?)?;
    let _ = options.tools_only;
    Ok(())
}
