//! An operator: the REST API as a caller sees it.

use std::{io, path::Path, time::Duration};

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::{invariants::PolicySources, process::Environment};

/// An operator with a key and a connection.
#[derive(Clone)]
pub struct Operator {
    http: reqwest::Client,
    base: String,
    key: String,
}

/// An answer that was no success.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No answer came.
    #[error("no answer: {0}")]
    Unanswered(#[from] reqwest::Error),
    /// The API refused.
    #[error("{method} {path} was answered {status}: {text}")]
    Refused {
        /// The method.
        method: Method,
        /// The path asked for.
        path: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the answer.
        text: String,
    },
    /// A file of this side failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

// === impl Operator ===

impl Operator {
    /// An operator with the owner's key, who waits `patience` for each answer.
    ///
    /// # Errors
    /// The certificate authority's file cannot be read.
    pub fn owner(env: &Environment, patience: Duration) -> Result<Self, OperatorError> {
        // Another provider that was installed first would do as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&env.ca_file)?)?;
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(patience)
            .build()?;
        let base = format!("{}/api/v1", env.api_url);
        Ok(Self { http, base, key: env.owner_key().to_owned() })
    }

    /// A `GET`, read as JSON.
    ///
    /// # Errors
    /// No answer, or no success.
    pub async fn get(&self, path: &str) -> Result<Value, OperatorError> {
        Ok(self.send(Method::GET, path, String::new()).await?.json().await?)
    }

    /// A request with a body, whose answer is read as JSON.
    ///
    /// # Errors
    /// No answer, or no success.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<String>,
    ) -> Result<Value, OperatorError> {
        Ok(self.send(method, path, body.into()).await?.json().await?)
    }

    /// A `GET`, read to its end and forgotten; how many bytes came.
    ///
    /// # Errors
    /// No answer, no success, or one that broke off.
    pub async fn read(&self, path: &str) -> Result<u64, OperatorError> {
        let mut response = self.send(Method::GET, path, String::new()).await?;
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await? {
            bytes += chunk.len() as u64;
        }
        Ok(bytes)
    }

    /// Exports the whole log into a file; returns its length in bytes.
    ///
    /// # Errors
    /// No answer, one that broke off, or the file cannot be written.
    pub async fn export(&self, file: &Path) -> Result<u64, OperatorError> {
        let mut response = self.send(Method::GET, "/audit/export", String::new()).await?;
        let mut out =
            tokio::io::BufWriter::with_capacity(1 << 20, tokio::fs::File::create(file).await?);
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await? {
            out.write_all(&chunk).await?;
            bytes += chunk.len() as u64;
        }
        out.flush().await?;
        Ok(bytes)
    }

    /// The source of every revision of every policy there was.
    ///
    /// # Errors
    /// No answer, or no success.
    pub async fn policy_sources(&self) -> Result<PolicySources, OperatorError> {
        let mut sources = PolicySources::new();
        let list = self.get("/policies").await?;
        let policies = list["policies"].as_array().cloned().unwrap_or_default();
        for policy in &policies {
            let name = policy["name"].as_str().unwrap_or_default();
            for revision in 1..=policy["latest_revision"].as_u64().unwrap_or_default() {
                let path = format!("/policies/{name}/source?revision={revision}");
                let source = self.send(Method::GET, &path, String::new()).await?;
                sources.insert((name.to_owned(), revision), source.bytes().await?.to_vec());
            }
        }
        Ok(sources)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response, OperatorError> {
        let url = format!("{}{path}", self.base);
        let request = self.http.request(method.clone(), url).bearer_auth(&self.key);
        let request = if body.is_empty() {
            request
        } else {
            let json = body.starts_with('{');
            let kind = if json { "application/json" } else { "application/yaml" };
            request.header("content-type", kind).body(body)
        };
        let response = request.send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default().chars().take(300).collect();
        Err(OperatorError::Refused { method, path: path.to_owned(), status, text })
    }
}
