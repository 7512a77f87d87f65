//! What a lone agent waits for the two answers around a tool call, over a bare stream without an SDK.
//!
//! `answers DATA [CALLS]`: `DATA` is the data directory of a running control plane. Prints the median of all
//! calls in microseconds.

use std::{io::Write as _, path::PathBuf, time::Instant};

use aa_chaos_tests::{
    peer::{self, Answered, ORDINARY, Peer, PeerError, connect, tool_call},
    process::Environment,
};
use aa_protocol::wire::v1;

/// Calls made before any is timed.
const WARM_UP: usize = 50;

#[tokio::main]
async fn main() -> Result<(), PeerError> {
    let mut arguments = std::env::args().skip(1);
    let data = PathBuf::from(arguments.next().ok_or("usage: answers DATA [CALLS]")?);
    let calls: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let env = Environment::read(&data)?;
    let peer = Peer::register(connect(&env).await?, &env, "answers").await?;
    let mut session = peer.session().await?;
    let mut times = Vec::with_capacity(calls);
    for call in 0..WARM_UP + calls {
        let begun = Instant::now();
        answered(&mut session, tool_call(ORDINARY)).await?;
        answered(&mut session, tool_result()).await?;
        if call >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).ok_or("no call was asked for")?;
    writeln!(std::io::stdout(), "{}", median.as_micros())?;
    Ok(())
}

async fn answered(session: &mut peer::Session, action: v1::Action) -> Result<(), PeerError> {
    if !session.check(1, action) {
        return Err("the session ended".into());
    }
    match session.answer().await? {
        (1, Answered::Decided) => Ok(()),
        other => Err(format!("not a decision: {other:?}").into()),
    }
}

fn tool_result() -> v1::Action {
    let result = v1::ToolResult { tool: "web_search".to_owned(), content_json: "\"found\"".into() };
    peer::action(v1::action::Kind::ToolResult(result))
}
