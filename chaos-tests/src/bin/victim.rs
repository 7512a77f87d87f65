//! A control plane to be killed: `victim DATA GATEWAY API`. It says `ready` once it serves.

use std::{io::Write, path::PathBuf};

use aa_control_plane::{ControlPlane, Options};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: victim DATA GATEWAY API");
    let options = Options {
        data: PathBuf::from(next()?),
        store: None,
        gateway: next()?.parse()?,
        api: next()?.parse()?,
        workspace_name: "victim".to_owned(),
        allowed_destinations: Vec::new(),
        cluster: None,
    };
    let control_plane = ControlPlane::start(options).await?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "ready")?;
    output.flush()?;
    drop(output);
    let interrupted = async {
        // Without a signal handler it is killed all the same.
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(control_plane.serve_until(interrupted).await?)
}
