//! Calls paid in one hot window, beside the same calls where nothing limits them.
//!
//! `reserve [SECONDS [SHAPE…]]`: agents of one team call a model and report its usage, again and again, so many of them
//! under way each (`64x16`). In turn the team has no budget, and one that all of them share: then each call waits for a
//! reservation in the same window, and each result for its posting. Three rounds each, medians.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints its measurements")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    load::{self, Measured, measure},
    operator::Operator,
    peer::{Answered, Peer, PeerError, Session, action},
    process::ControlPlaneProcess,
    vitals::machine,
};
use aa_protocol::wire::v1;
use reqwest::Method;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SHAPES: [&str; 3] = ["1x1", "64x1", "64x16"];
const ROUNDS: usize = 3;
const TEAM: &str = "load";

#[tokio::main]
async fn main() -> Result<(), PeerError> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let duration = Duration::from_secs(seconds);
    let asked: Vec<String> = arguments.collect();
    let shapes = if asked.is_empty() { SHAPES.map(String::from).to_vec() } else { asked };
    let victim = std::env::current_exe()?.with_file_name("victim");
    let directory = tempfile::tempdir_in(".")?;
    let any = "127.0.0.1:0".parse()?;
    let gateway = ControlPlaneProcess::start(&victim, directory.path(), any, any).await?;
    let operator = Operator::owner(&gateway.env, Duration::from_secs(30))?;
    let budget = format!("/budgets/teams/{TEAM}/daily");
    let prices =
        r#"{"overrides":[{"model":"load","price":{"input":"1","output":"1"}}],"unknown":"deny"}"#;
    operator.call(Method::PUT, "/prices", prices).await?;
    println!("{}", machine());
    println!(
        "  shape | unlimited/s (rounds) · cpu | paid/s (rounds) · cpu | of unlimited | p50, p99 (unlimited p50)"
    );
    for name in shapes {
        let wrong = || format!("`{name}` is no shape; write `64x16`");
        let (agents, in_flight) = load::shape(&name).ok_or_else(wrong)?;
        let drive = |peer, stop| drive(peer, in_flight, stop);
        let (mut unlimited, mut paid) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            unlimited.push(measure(&gateway, agents, TEAM, duration, drive).await?);
            operator.call(Method::PUT, &budget, r#"{"cost_limit_usd":"1000000"}"#).await?;
            paid.push(measure(&gateway, agents, TEAM, duration, drive).await?);
            operator.call(Method::DELETE, &budget, "").await?;
        }
        let (free, held) = (Measured::median(&unlimited), Measured::median(&paid));
        println!(
            "{name:>7} | {:>7.0} ({}) · {:.1} µs | {:>7.0} ({}) · {:.1} µs | {:>4.0} % | {} µs, {} µs ({} µs)",
            free.per_second,
            Measured::rates(&unlimited),
            free.cpu_us,
            held.per_second,
            Measured::rates(&paid),
            held.cpu_us,
            100.0 * held.per_second / free.per_second,
            held.p50_us,
            held.p99_us,
            free.p50_us,
        );
    }
    Ok(())
}

/// Keeps so many calls under way on one session, each followed by its result; returns the latency of every decision in
/// microseconds.
async fn drive(peer: Peer, in_flight: usize, stop: Arc<AtomicBool>) -> Result<Vec<u64>, PeerError> {
    let mut session = peer.session().await?;
    let mut sent: HashMap<u64, (Instant, Option<prost::bytes::Bytes>)> = HashMap::new();
    let (mut last, mut latencies) = (0, Vec::new());
    let mut send =
        |session: &Session, sent: &mut HashMap<u64, _>, answers: Option<prost::bytes::Bytes>| {
            let next = match &answers {
                Some(call) => action(result(call.clone())),
                None => action(call()),
            };
            last += 1;
            let of_call = answers.is_none().then(|| next.id.clone());
            sent.insert(last, (Instant::now(), of_call));
            if session.check(last, next) { Ok(()) } else { Err("the session ended") }
        };
    for _ in 0..in_flight {
        send(&session, &mut sent, None)?;
    }
    while !sent.is_empty() {
        let (tag, answered) = session.answer().await?;
        let Some((at, call)) = sent.remove(&tag) else { return Err("an unknown tag".into()) };
        if let Answered::Refused(code, _) = answered {
            return Err(format!("refused with code {code}").into());
        }
        latencies.push(at.elapsed().as_micros() as u64);
        // A call that was let go is always settled, so that nothing is left reserved for the next round.
        if call.is_some() || !stop.load(Ordering::Relaxed) {
            send(&session, &mut sent, call)?;
        }
    }
    Ok(latencies)
}

fn call() -> v1::action::Kind {
    v1::action::Kind::LlmCall(v1::LlmCall {
        model: "load".to_owned(),
        messages_json: r#"[{"role":"user","content":"What is the capital of France?"}]"#.to_owned(),
        max_output_tokens: Some(100),
        ..Default::default()
    })
}

fn result(call_id: prost::bytes::Bytes) -> v1::action::Kind {
    v1::action::Kind::LlmResult(v1::LlmResult {
        model: "load".to_owned(),
        content_json: r#""Paris.""#.to_owned(),
        usage: Some(v1::Usage { input_tokens: 14, output_tokens: 3, ..Default::default() }),
        call_id,
        ..Default::default()
    })
}
