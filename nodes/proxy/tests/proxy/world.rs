//! A control plane, a proxy in front of providers, and clients that go through it.

use std::{net::SocketAddr, time::Duration};

use aa_control_plane::{ControlPlane, Options, ServeError};
use aa_proxy::{
    config::Config,
    start::{Running, start},
};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use crate::provider::ProviderAuthority;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TOKEN: &str = "an agent's token";

pub(crate) struct World {
    _directory: tempfile::TempDir,
    pub(crate) proxy: Running,
    pub(crate) authority: ProviderAuthority,
    api: reqwest::Client,
    api_url: String,
    owner_key: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

const CONFIG: &str = r#"
ca_directory = "ca"
admin = "127.0.0.1:0"

[[listeners]]
address = "127.0.0.1:0"

[[agents]]
name = "research"
team = "platform"
token_sha256 = "TOKEN"

[hosts]
pass_through = ["pinned.example.com"]
allow_internal = ["127.0.0.0/8"]

[hosts.addresses]
"api.openai.com" = ["127.0.0.1"]
"api.example.com" = ["127.0.0.1"]
"elsewhere.example.com" = ["127.0.0.1"]
"pinned.example.com" = ["127.0.0.1"]

[upstream]
ca_files = ["providers.pem"]

[timeouts]
drain = "5s"

[approvals]
wait = "0s"
"#;

// === impl World ===

impl World {
    /// A world in which this policy alone is in force.
    pub(crate) async fn start(policy: &str) -> Self {
        Self::start_with(policy, "").await
    }

    /// The same, with more in the proxy's configuration.
    pub(crate) async fn start_with(policy: &str, more: &str) -> Self {
        // Whichever test comes first chooses for all.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = Options {
            data: directory.path().join("data"),
            store: None,
            gateway: any,
            api: any,
            workspace_name: "test".to_owned(),
            allowed_destinations: Vec::new(),
            cluster: None,
        };
        let control_plane = ControlPlane::start(options).await.unwrap();
        let summary = control_plane.summary().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(control_plane.serve_until(async {
            let _ = stopped.await;
        }));
        let env = std::fs::read_to_string(&summary.client_env).unwrap()
            + &std::fs::read_to_string(&summary.operator_env).unwrap();
        let value = |name: &str| {
            let prefix = format!("export {name}='");
            let value = env.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\''));
            value.unwrap().to_owned()
        };
        let ca = std::fs::read(&summary.ca_file).unwrap();
        let api = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let made = api
            .post(format!("{}/api/v1/keys", summary.api_url))
            .bearer_auth(value("AASM_API_KEY"))
            .json(&serde_json::json!({"name": "proxy", "role": "proxy"}))
            .send()
            .await
            .unwrap();
        let made: Value = made.json().await.unwrap();
        let authority = ProviderAuthority::new();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("providers.pem", &authority.pem());
        write("key", made["secret"].as_str().unwrap());
        let digest: String = <sha2::Sha256 as sha2::Digest>::digest(TOKEN)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let config = CONFIG.replace("TOKEN", &digest)
            + more
            + &format!(
                "\n[gateway]\nworkspace_id = \"{}\"\nurls = \"{}\"\nca_file = \"{}\"\napi_key_file = \"key\"\n",
                summary.workspace_id,
                summary.gateway_url,
                summary.ca_file.display()
            );
        write("aa-proxy.toml", &config);
        let config = Config::read(&directory.path().join("aa-proxy.toml")).unwrap();
        let proxy = start(config).await.unwrap();
        let world = Self {
            _directory: directory,
            proxy,
            authority,
            api,
            api_url: summary.api_url,
            owner_key: value("AASM_API_KEY"),
            stop: Some(stop),
            serving,
        };
        world.apply(policy).await;
        world
    }

    /// Puts a policy in force in place of what was there.
    pub(crate) async fn apply(&self, policy: &str) {
        let document = format!(
            "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: starter\nspec:\n{policy}"
        );
        let url = format!("{}/api/v1/policies", self.api_url);
        let answer = self
            .api
            .post(url)
            .bearer_auth(&self.owner_key)
            .header("content-type", "application/yaml")
            .body(document)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status} {}", answer.text().await.unwrap());
    }

    /// Puts a secret into the vault that is released to proxies for a host.
    pub(crate) async fn set_secret(&self, name: &str, host: &str, value: &str) {
        let url = format!("{}/api/v1/secrets/{name}?release_to={host}", self.api_url);
        let request = self.api.put(url).bearer_auth(&self.owner_key);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.body(value.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    /// A client that knows of the proxy, and trusts its CA.
    pub(crate) fn client(&self) -> reqwest::Client {
        self.client_as("research", TOKEN)
    }

    pub(crate) fn client_as(&self, agent: &str, token: &str) -> reqwest::Client {
        let proxy = reqwest::Proxy::all(format!("http://{}", self.proxy.addresses()[0])).unwrap();
        let proxy = proxy.basic_auth(agent, token);
        let ca = self.proxy.ca_pem().unwrap();
        reqwest::Client::builder()
            .proxy(proxy)
            .tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()])
            .timeout(PATIENCE)
            .build()
            .unwrap()
    }

    /// Audit entries of the agent, oldest first.
    pub(crate) async fn entries(&self) -> Vec<Value> {
        let url = format!("{}/api/v1/audit/entries?limit=100", self.api_url);
        let answer = self.api.get(url).bearer_auth(&self.owner_key).send().await.unwrap();
        let page: Value = answer.json().await.unwrap();
        let mut entries = page["entries"].as_array().unwrap().clone();
        entries.reverse();
        entries
    }

    /// The first entry that is as said, once it is there.
    pub(crate) async fn entry(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                if let Some(entry) = self.entries().await.into_iter().find(&is_it) {
                    return entry;
                }
                tokio::task::yield_now().await;
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(entry) => entry,
            Err(_) => panic!("no such entry in {:#?}", self.entries().await),
        }
    }

    /// What the proxy counts.
    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.proxy.admin().unwrap());
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        client.get(url).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn stop(mut self) {
        assert!(self.proxy.stop(PATIENCE).await, "requests were still under way");
        let _ = self.stop.take().map(|stop| stop.send(()));
        self.serving.await.unwrap().unwrap();
    }
}
