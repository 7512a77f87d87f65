//! Nothing that can be printed or stored shows a secret or a key.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{
    DataKey, KeyRing, MAX_SECRET_BYTES, SealedSecret, SecretName, SecretValue, Vault, WrapContext,
    master_key::{env::EnvMasterKey, file::FileMasterKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE},
};
use futures::executor::block_on;
use uuid::Uuid;
use zeroize::Zeroizing;

const SECRET: &str = "sk-MARKER-of-a-secret-value";
const KEY: &[u8; 32] = b"MARKER-of-a-data-key-32-bytes-ok";
const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// All that came out, and whether some form of what must not come out is in it.
#[derive(Default)]
struct Outputs(Vec<String>);

impl Outputs {
    fn debug(&mut self, value: &impl Debug) {
        self.0.push(format!("{value:?}"));
        self.0.push(format!("{value:#?}"));
    }

    fn error(&mut self, error: &dyn std::error::Error) {
        self.0.push(format!("{error}\n{error:?}\n{error:#?}"));
        if let Some(source) = error.source() {
            self.error(source);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.push(String::from_utf8_lossy(bytes).into_owned());
    }

    fn check(&self) {
        for secret in [SECRET.as_bytes(), KEY] {
            let list: Vec<String> = secret.iter().map(u8::to_string).collect();
            let forms = [
                String::from_utf8_lossy(&secret[..8]).into_owned(),
                STANDARD.encode(secret)[..12].to_owned(),
                STANDARD_NO_PAD.encode(&secret[1..])[..12].to_owned(),
                STANDARD_NO_PAD.encode(&secret[2..])[..12].to_owned(),
                URL_SAFE.encode(secret)[..12].to_owned(),
                secret[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
                secret[..8].iter().map(|byte| format!("{byte:02X}")).collect(),
                list[..8].join(", "),
                list[..8].join(",\n    "),
            ];
            for output in &self.0 {
                for form in &forms {
                    assert!(!output.contains(form.as_str()), "`{form}` in {output}");
                }
            }
        }
    }
}

fn workspace(number: u128) -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(number))
}

fn vault(number: u128, master: &EnvMasterKey) -> Vault {
    Vault::found(block_on(Vault::create(workspace(number), NOW, master)).unwrap())
}

#[test]
fn a_secret_is_in_nothing_but_what_exposes_it() {
    let mut outputs = Outputs::default();
    let key_text = STANDARD_NO_PAD.encode(KEY);
    let master = EnvMasterKey::from_lookup("X", None, |_| Some(key_text.clone())).unwrap();
    outputs.debug(&master);
    let vault = vault(1, &master);
    let secret = SecretValue::copy_of(SECRET.as_bytes()).unwrap();
    outputs.debug(&secret);
    let name: SecretName = "a".parse().unwrap();
    let sealed = vault.seal(&name, 1, &secret).unwrap();
    outputs.debug(&sealed);
    outputs.bytes(&sealed.to_json());
    outputs.debug(&vault);
    outputs.debug(vault.ring());
    outputs.bytes(&vault.ring().to_json());
    outputs.debug(&vault.open(&name, 1, &sealed).unwrap());
    outputs.debug(&block_on(vault.rotate(NOW, &master)).unwrap());

    let context = WrapContext { workspace: workspace(1), data_key: vault.ring().active() };
    let key = DataKey::from_bytes(context.data_key, &Zeroizing::new(*KEY));
    outputs.debug(&key);
    let wrapped = block_on(aa_vault::MasterKey::wrap(&master, &key, &context)).unwrap();
    outputs.debug(&wrapped);
    outputs.bytes(&serde_json::to_vec(&wrapped).unwrap());
    outputs.check();
    // The search itself finds what is there.
    outputs.0.push(String::from_utf8_lossy(secret.expose()).into_owned());
    assert!(std::panic::catch_unwind(|| outputs.check()).is_err());
}

#[test]
fn no_error_holds_the_secret_that_caused_it() {
    let mut outputs = Outputs::default();
    let variable = |text: String| EnvMasterKey::from_lookup("X", None, move |_| Some(text.clone()));
    let master = variable("a".repeat(42) + "A").unwrap();
    let (vault_1, vault_2) = (vault(1, &master), vault(2, &master));
    let secret = SecretValue::copy_of(SECRET.as_bytes()).unwrap();
    let name: SecretName = "a".parse().unwrap();
    let other: SecretName = "b".parse().unwrap();
    let sealed = vault_1.seal(&name, 1, &secret).unwrap();

    outputs.error(&vault_2.open(&name, 1, &sealed).unwrap_err());
    outputs.error(&vault_1.open(&other, 1, &sealed).unwrap_err());
    let text = String::from_utf8(sealed.to_json()).unwrap();
    let renamed = text.replace("\"name\":\"a\"", "\"name\":\"b\"");
    let renamed = SealedSecret::from_json(renamed.as_bytes()).unwrap();
    outputs.error(&vault_1.open(&other, 1, &renamed).unwrap_err());
    // Somebody gives the secret where something else belongs.
    outputs.error(&SECRET.repeat(9).parse::<SecretName>().unwrap_err());
    outputs.error(&format!("{SECRET}!").parse::<SecretName>().unwrap_err());
    outputs.error(&variable(SECRET.to_owned()).unwrap_err());
    let large = SECRET.as_bytes().repeat(MAX_SECRET_BYTES / SECRET.len() + 1);
    outputs.error(&SecretValue::new(large).unwrap_err());
    let boxed = format!("{}\"}}", text.split("\"box\":\"").next().unwrap());
    let misplaced = boxed.replace("\"name\":\"a\"", &format!("\"name\":\"{SECRET} \""));
    outputs.error(&SealedSecret::from_json(misplaced.as_bytes()).unwrap_err());
    let misplaced = text.replace("\"box\":\"", &format!("\"box\":\"{SECRET}!"));
    outputs.error(&SealedSecret::from_json(misplaced.as_bytes()).unwrap_err());
    let ring = String::from_utf8(vault_1.ring().to_json()).unwrap();
    let moved = ring.replace(&workspace(1).to_string(), &workspace(3).to_string());
    let moved = KeyRing::from_json(moved.as_bytes()).unwrap();
    outputs.error(&block_on(Vault::open_ring(moved, &master)).unwrap_err());

    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("master.json");
    outputs.debug(&FileMasterKey::create(&path, NOW).unwrap());
    std::fs::write(&path, format!("{{\"format\":1,\"{SECRET}\":\"{SECRET}\"}}")).unwrap();
    outputs.error(&FileMasterKey::open(&path).unwrap_err());
    outputs.check();
}
