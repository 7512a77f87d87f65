//! `kill -9`, and how long it takes until everything is there again.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    peer::{ORDINARY, Peer, tool_call},
    process::ControlPlaneProcess,
    vitals::{Observed, stored_bytes},
};

use crate::{Error, MIB, say};

/// How often it is killed. The first kill falls into the load; the others find little to do again.
const KILLS: usize = 3;

/// Kills the process, starts it again and asks for a decision on behalf of `peer`, several times over.
pub(crate) async fn run(
    program: &Path,
    data: &Path,
    mut process: ControlPlaneProcess,
    peer: &Peer,
) -> Result<(), Error> {
    let (gateway, api) = process.env.addresses()?;
    for kill in 1..=KILLS {
        process.kill().await?;
        let start = Instant::now();
        process = ControlPlaneProcess::start(program, data, gateway, api).await?;
        let ready = start.elapsed();
        let again = peer.reconnected(&process.env).await?;
        decided(&again).await?;
        let first = start.elapsed();
        let pid = process.pid().ok_or("the process has ended")?;
        let vitals = Observed::new(pid).vitals()?;
        say(&format!(
            "kill -9 no. {kill}{}: ready in {ready:.2?}, first decision after {first:.2?}; RSS {:.0} MiB, store {:.0} MiB",
            if kill == 1 { " (under load)" } else { "" },
            vitals.resident as f64 / MIB,
            stored_bytes(data) as f64 / MIB,
        ))?;
    }
    process.interrupt().await?;
    Ok(())
}

async fn decided(peer: &Peer) -> Result<(), Error> {
    let asked = tokio::time::timeout(Duration::from_secs(60), peer.check(tool_call(ORDINARY)));
    asked.await??;
    Ok(())
}
