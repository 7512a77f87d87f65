//! `kill -9` of the control plane under the load of many agents, again and again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aa_chaos_tests::{
    invariants::{Acknowledged, check_export},
    process::{ControlPlaneProcess, Environment},
};
use aa_client::{AgentSpec, Client};
use aa_protocol::Action;

const AGENTS: usize = 24;
const IN_FLIGHT: usize = 4;
const KILLS: u64 = 12;

/// Long enough for a restart on a busy machine; every wait ends by it.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_decision_outlives_kill_9_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_victim"));
    let any = "127.0.0.1:0".parse().unwrap();
    let mut victim = ControlPlaneProcess::start(program, directory.path(), any, any).await.unwrap();
    let (gateway, api) = victim.env.addresses().unwrap();

    let client = Client::connect(victim.env.client(PATIENCE).unwrap()).unwrap();
    let acknowledged = Arc::new(Mutex::new(Vec::<Acknowledged>::new()));
    let count = Arc::new(AtomicU64::new(0));
    let stopping = Arc::new(AtomicBool::new(false));
    let mut loads = Vec::new();
    for number in 0..AGENTS {
        let spec = AgentSpec { name: format!("agent-{number}"), ..AgentSpec::default() };
        let agent = client.register(spec).await.unwrap();
        for _ in 0..IN_FLIGHT {
            let (agent, acknowledged) = (agent.clone(), Arc::clone(&acknowledged));
            let (count, stopping) = (Arc::clone(&count), Arc::clone(&stopping));
            loads.push(tokio::spawn(async move {
                let action: Action =
                    serde_json::from_str(r#"{"kind":"tool_call","tool":"search"}"#).unwrap();
                while !stopping.load(Ordering::Relaxed) {
                    let checked = agent.check(&action).await.expect("answered in the end");
                    let event = checked.event_id.expect("it was governed");
                    let verdict = Some(checked.decision.verdict);
                    let told = Acknowledged { action: checked.action_id, event, verdict };
                    acknowledged.lock().unwrap().push(told);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    for kill in 0..KILLS {
        // The kills fall at different places of the journal's work: after different numbers of answers.
        let target = count.load(Ordering::Relaxed) + 150 + 97 * kill % 400;
        let reached = async {
            while count.load(Ordering::Relaxed) < target {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the load goes on");
        victim.kill().await.unwrap();
        victim = ControlPlaneProcess::start(program, directory.path(), gateway, api).await.unwrap();
    }
    stopping.store(true, Ordering::Relaxed);
    for load in loads {
        tokio::time::timeout(PATIENCE, load).await.expect("the load ends").unwrap();
    }
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    let text = export(&victim.env).await;
    let recorded = check_export(&text, &acknowledged).unwrap();
    // The load never gave up on an action, so nothing is recorded that was not told either.
    assert_eq!(recorded.untold, 0);
    println!("{KILLS} kills, {} decisions, each recorded exactly once", recorded.decisions);
}

async fn export(env: &Environment) -> Vec<u8> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = std::fs::read(&env.ca_file).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let response = client
        .get(format!("{}/api/v1/audit/export", env.api_url))
        .bearer_auth(env.owner_key())
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    response.bytes().await.unwrap().to_vec()
}
