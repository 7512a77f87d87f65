//! The trust stores of systems, and what trusts others.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aa_ca::NamedCertificate;

use crate::{outcome::Failure, terminal::printable, whole_file::WholeFile};

/// A system's trust store: a directory for certificates of one's own, and a command that takes them in.
pub(super) struct TrustStore {
    kind: &'static Kind,
    directory: PathBuf,
}

/// A certificate under the name it has in trust stores.
pub(super) struct Certificate {
    name: String,
    pem: String,
}

struct Kind {
    directory: &'static str,
    command: &'static str,
    /// All that the system trusts, in PEM.
    bundle: &'static str,
}

/// Debian, Ubuntu, Alpine; Red Hat, Fedora, Amazon Linux. Debian's takes one certificate from each file, which is to end
/// in `.crt`; the others take such files too.
const KINDS: [Kind; 2] = [
    Kind {
        directory: "usr/local/share/ca-certificates",
        command: "update-ca-certificates",
        bundle: "/etc/ssl/certs/ca-certificates.crt",
    },
    Kind {
        directory: "etc/pki/ca-trust/source/anchors",
        command: "update-ca-trust",
        bundle: "/etc/pki/tls/certs/ca-bundle.crt",
    },
];

/// What the names of files of ours begin with; nobody else's do.
const PREFIX: &str = "agent-assembly-proxy-";
const SUFFIX: &str = ".crt";
/// As much of what a command complains of is shown.
const MAX_COMPLAINT: usize = 2_000;

// === impl Certificate ===

impl Certificate {
    pub(super) fn new(certificate: &NamedCertificate) -> Self {
        let NamedCertificate { fingerprint, pem } = certificate;
        let digits = fingerprint.trim_start_matches("sha256:");
        let name = format!("{PREFIX}{}{SUFFIX}", &digits[..digits.len().min(16)]);
        Self { name, pem: pem.clone() }
    }
}

// === impl TrustStore ===

impl TrustStore {
    /// That of the system below `root`; none when it has none that is known.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let stores = KINDS.iter().map(|kind| Self { kind, directory: root.join(kind.directory) });
        stores.into_iter().find(|store| store.directory.is_dir())
    }

    /// The command that takes in what was put there.
    pub(super) const fn command(&self) -> &'static str {
        self.kind.command
    }

    /// The file with all that the system trusts.
    pub(super) const fn bundle(&self) -> &'static str {
        self.kind.bundle
    }

    pub(super) fn path(&self, certificate: &Certificate) -> PathBuf {
        self.directory.join(&certificate.name)
    }

    /// Certificates of ours that are there and no longer wanted.
    pub(super) fn superfluous(&self, wanted: &[Certificate]) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error| self.failed("read", &self.directory, &error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
            if is_ours && !wanted.iter().any(|certificate| certificate.name == name) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn write(&self, certificate: &Certificate) -> Result<(), Failure> {
        let path = self.path(certificate);
        let mut file = WholeFile::create(&path)?;
        let written = file.write(certificate.pem.as_bytes());
        written.map_err(|error| self.failed("write", &path, &error))?;
        file.share()?;
        file.finish().map(drop)
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), Failure> {
        fs::remove_file(path).map_err(|error| self.failed("remove", path, &error))
    }

    /// Runs the command.
    pub(super) fn update(&self) -> Result<(), Failure> {
        let command = self.kind.command;
        let output = Command::new(command).stdin(Stdio::null()).output().map_err(|error| {
            Failure::refused(format_args!("cannot run {command}: {error}; run it yourself as root"))
        })?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint: String = printable(complaint.trim()).chars().take(MAX_COMPLAINT).collect();
        let status = output.status;
        Err(Failure::refused(format_args!("{command} failed ({status}): {complaint}")))
    }

    fn failed(&self, what: &str, path: &Path, error: &io::Error) -> Failure {
        Failure::refused(format_args!("cannot {what} {}: {error}; run as root", path.display()))
    }
}

/// How agents whose runtime does not trust what the system trusts are told of `bundle`.
pub(super) fn by_environment(bundle: &str) -> String {
    format!(
        "\
agents in Python (requests, httpx, openai, anthropic):
  export SSL_CERT_FILE={bundle} REQUESTS_CA_BUNDLE={bundle}
agents in Node:
  export NODE_EXTRA_CA_CERTS={bundle}
curl and what is built on it, where the system's trust store is not used:
  export CURL_CA_BUNDLE={bundle}
agents in Java, for each certificate that `aasm ca export` prints:
  keytool -importcert -noprompt -cacerts -storepass changeit -alias agent-assembly-proxy -file CERTIFICATE"
    )
}
