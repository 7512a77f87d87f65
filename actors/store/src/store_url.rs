//! Where a store is: a file of this machine or a FoundationDB cluster.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// The longest prefix of a deployment's keys, in bytes: with it, a key of
/// [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES) is as long as FoundationDB allows.
pub const MAX_PREFIX_BYTES: usize = 100;

/// The place of a store.
///
/// Written as the directory of an embedded store, or as `fdb://` and the path of a cluster file with
/// parameters: `fdb:///etc/foundationdb/fdb.cluster?prefix=agent-assembly/&tls_cert=…&tls_key=…&tls_ca=…`.
/// What is special in URLs is percent-encoded in the latter. Displays as it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// The directory of an embedded store; its file is [`STORE_FILE`](crate::STORE_FILE) in it.
    Redb(PathBuf),
    /// A FoundationDB cluster.
    Fdb(FdbUrl),
}

/// The place of a store in a FoundationDB cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbUrl {
    /// The cluster file, absolute. The client rewrites it when the coordinators change, so it must be
    /// writable to the process for that.
    pub cluster_file: PathBuf,
    /// What all keys of the store begin with, so that a cluster can be shared; at most
    /// [`MAX_PREFIX_BYTES`]. Parameter `prefix`; `agent-assembly/` if absent. No deployment's prefix may
    /// begin with another's.
    pub prefix: Bytes,
    /// How to speak TLS, which a cluster file with `:tls` addresses asks for.
    pub tls: Option<FdbTls>,
    /// Another `libfdb_c` to speak to the cluster with, for one of another version than that which the
    /// program is linked to. Parameter `client_library`.
    pub client_library: Option<PathBuf>,
}

/// The files of TLS between client and cluster, PEM. The key's password, if it has one, is taken from the
/// environment's `FDB_TLS_PASSWORD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbTls {
    /// The client's certificate and its chain. Parameter `tls_cert`.
    pub certificate: PathBuf,
    /// Its private key. Parameter `tls_key`.
    pub key: PathBuf,
    /// The authorities that the cluster's certificates are signed by; the system's if absent. Parameter
    /// `tls_ca`.
    pub ca: Option<PathBuf>,
    /// What the peers' certificates must say beside, in FoundationDB's language. Parameter `tls_verify`.
    pub verify_peers: Option<String>,
}

/// Why a text is no [`StoreUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// It names a kind of store that there is not.
    #[error(
        "there is no kind of store {scheme}://; give the path of a directory or fdb:///path/to/fdb.cluster"
    )]
    Scheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// Nothing is named.
    #[error("no store is named; give the path of a directory or fdb:///path/to/fdb.cluster")]
    Empty,
    /// The cluster file has no absolute path.
    #[error(
        "the cluster file of {url} has no absolute path; write three slashes, as in fdb:///etc/foundationdb/fdb.cluster"
    )]
    NoClusterFile {
        /// What was given.
        url: String,
    },
    /// A parameter that there is not.
    #[error(
        "there is no parameter {name} of fdb://; there are prefix, tls_cert, tls_key, tls_ca, tls_verify and client_library"
    )]
    Parameter {
        /// Its name.
        name: String,
    },
    /// A parameter twice.
    #[error("the parameter {name} is given twice; give it once")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A parameter that says nothing usable.
    #[error("the parameter {name} {why}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What is wrong and what to do.
        why: &'static str,
    },
    /// A certificate without a key, or the other way round, or an authority without both.
    #[error(
        "TLS needs tls_cert and tls_key; give both, with tls_ca and tls_verify beside them, or none"
    )]
    HalfTls,
}

const SCHEME: &str = "fdb://";
const DEFAULT_PREFIX: &[u8] = b"agent-assembly/";
/// What stays as it is when displayed.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PARAMETERS: [&str; 6] =
    ["prefix", "tls_cert", "tls_key", "tls_ca", "tls_verify", "client_library"];

// === impl FdbUrl ===

impl FdbUrl {
    /// The default prefix in the cluster of a file, without TLS.
    pub fn new(cluster_file: impl Into<PathBuf>) -> Self {
        Self {
            cluster_file: cluster_file.into(),
            prefix: Bytes::from_static(DEFAULT_PREFIX),
            tls: None,
            client_library: None,
        }
    }
}

impl FromStr for FdbUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_file = || StoreUrlError::NoClusterFile { url: text.to_owned() };
        let rest = text.strip_prefix(SCHEME).ok_or_else(no_file)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path);
        if !path.starts_with(b"/") || path.ends_with(b"/") {
            return Err(no_file());
        }
        let mut url = Self::new(to_path("the cluster file", path)?);
        let mut given: [Option<Vec<u8>>; 6] = Default::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let place = PARAMETERS.iter().position(|known| *known == name);
            let place = place.and_then(|place| given.get_mut(place));
            let place = place.ok_or_else(|| StoreUrlError::Parameter { name: name.to_owned() })?;
            if place.replace(decode(value)).is_some() {
                return Err(StoreUrlError::Twice { name: name.to_owned() });
            }
        }
        let [prefix, certificate, key, ca, verify, library] = given;
        if let Some(prefix) = prefix {
            url.prefix = checked_prefix(prefix)?;
        }
        let certificate = certificate.map(|path| to_path("tls_cert", path)).transpose()?;
        let key = key.map(|path| to_path("tls_key", path)).transpose()?;
        let ca = ca.map(|path| to_path("tls_ca", path)).transpose()?;
        let verify_peers = verify.map(to_verify).transpose()?;
        url.tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(FdbTls { certificate, key, ca, verify_peers }),
            (None, None) if ca.is_none() && verify_peers.is_none() => None,
            _ => return Err(StoreUrlError::HalfTls),
        };
        url.client_library = library.map(|path| to_path("client_library", path)).transpose()?;
        Ok(url)
    }
}

impl fmt::Display for FdbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_file, prefix, tls, client_library } = self;
        write!(f, "{SCHEME}{}?prefix={}", path(cluster_file), encode(prefix))?;
        if let Some(FdbTls { certificate, key, ca, verify_peers }) = tls {
            write!(f, "&tls_cert={}&tls_key={}", path(certificate), path(key))?;
            if let Some(ca) = ca {
                write!(f, "&tls_ca={}", path(ca))?;
            }
            if let Some(verify_peers) = verify_peers {
                write!(f, "&tls_verify={}", encode(verify_peers.as_bytes()))?;
            }
        }
        if let Some(library) = client_library {
            write!(f, "&client_library={}", path(library))?;
        }
        Ok(())
    }
}

// === impl StoreUrl ===

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with(SCHEME) {
            return text.parse().map(Self::Fdb);
        }
        match text.split_once("://") {
            // A directory may be called so, but hardly by somebody who means one.
            Some((scheme, _)) if !scheme.contains('/') => {
                Err(StoreUrlError::Scheme { scheme: scheme.to_owned() })
            }
            _ if text.is_empty() => Err(StoreUrlError::Empty),
            _ => Ok(Self::Redb(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redb(path) => path.display().fmt(f),
            Self::Fdb(url) => url.fmt(f),
        }
    }
}

fn encode(bytes: &[u8]) -> impl fmt::Display {
    percent_encode(bytes, ENCODED)
}

fn path(path: &Path) -> impl fmt::Display {
    encode(path.as_os_str().as_encoded_bytes())
}

fn decode(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

fn to_path(name: &'static str, bytes: Vec<u8>) -> Result<PathBuf, StoreUrlError> {
    let text = to_text(name, bytes)?;
    Ok(PathBuf::from(text))
}

fn to_verify(bytes: Vec<u8>) -> Result<String, StoreUrlError> {
    to_text("tls_verify", bytes)
}

/// The client takes its options as C strings.
fn to_text(name: &'static str, bytes: Vec<u8>) -> Result<String, StoreUrlError> {
    if bytes.is_empty() || bytes.contains(&0) {
        let why = "is empty or has a zero byte; give a value or leave it out";
        return Err(StoreUrlError::Value { name, why });
    }
    let not_text = |_| StoreUrlError::Value { name, why: "is not UTF-8; use another name" };
    String::from_utf8(bytes).map_err(not_text)
}

fn checked_prefix(prefix: Vec<u8>) -> Result<Bytes, StoreUrlError> {
    let name = "prefix";
    if prefix.len() > MAX_PREFIX_BYTES {
        let why = "is longer than 100 bytes; choose a shorter one";
        return Err(StoreUrlError::Value { name, why });
    }
    if prefix.first() == Some(&0xff) {
        let why = "begins with 0xff, which FoundationDB keeps to itself; choose another";
        return Err(StoreUrlError::Value { name, why });
    }
    Ok(prefix.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> StoreUrlError {
        text.parse::<StoreUrl>().unwrap_err()
    }

    #[test]
    fn a_path_is_an_embedded_store() {
        for path in ["/var/lib/agent-assembly", "data", "./a://b", "../data"] {
            assert_eq!(path.parse(), Ok(StoreUrl::Redb(PathBuf::from(path))));
        }
    }

    #[test]
    fn a_cluster_is_named_with_all_it_takes() {
        let text = "fdb:///etc/foundationdb/fdb.cluster?prefix=staging%2F%00&tls_cert=/c.pem\
                    &tls_key=/k.pem&tls_ca=/ca.pem&tls_verify=Check.Valid%3D1&client_library=/l.so";
        let url: FdbUrl = text.parse().unwrap();
        assert_eq!(url.cluster_file, Path::new("/etc/foundationdb/fdb.cluster"));
        assert_eq!(url.prefix, &b"staging/\0"[..]);
        let tls = url.tls.clone().unwrap();
        assert_eq!(tls.verify_peers.as_deref(), Some("Check.Valid=1"));
        assert_eq!((tls.certificate, tls.key), ("/c.pem".into(), "/k.pem".into()));
        assert_eq!(tls.ca, Some("/ca.pem".into()));
        assert_eq!(url.client_library, Some("/l.so".into()));
        assert_eq!(url.to_string().parse(), Ok(StoreUrl::Fdb(url)));
    }

    #[test]
    fn the_default_is_a_prefix_of_its_own_without_tls() {
        let url: FdbUrl = "fdb:///fdb.cluster".parse().unwrap();
        assert_eq!(url, FdbUrl::new("/fdb.cluster"));
        assert_eq!(url.prefix, &b"agent-assembly/"[..]);
        let whole: FdbUrl = "fdb:///fdb.cluster?prefix=".parse().unwrap();
        assert!(whole.prefix.is_empty(), "a cluster of one's own needs none");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        assert!(error("fdb://etc/fdb.cluster").to_string().contains("three slashes"));
        assert!(error("fdb:///").to_string().contains("three slashes"));
        assert!(error("postgres://host").to_string().contains("postgres://"));
        assert_eq!(error(""), StoreUrlError::Empty);
        assert!(error("fdb:///f?prefx=a").to_string().contains("prefx"));
        assert!(error("fdb:///f?prefix=a&prefix=b").to_string().contains("twice"));
        assert!(error("fdb:///f?prefix=%ff").to_string().contains("0xff"));
        assert_eq!(error("fdb:///f?tls_cert=/c"), StoreUrlError::HalfTls);
        assert_eq!(error("fdb:///f?tls_ca=/c"), StoreUrlError::HalfTls);
        assert!(error("fdb:///f%00").to_string().contains("zero byte"));
        assert!(error("fdb:///f?tls_key=").to_string().contains("tls_key"));
        let long = "p".repeat(MAX_PREFIX_BYTES + 1);
        assert!(error(&format!("fdb:///f?prefix={long}")).to_string().contains("100 bytes"));
    }

    proptest! {
        #[test]
        fn whatever_parses_displays_as_the_same(text in "fdb:///[ -~]{0,60}") {
            if let Ok(url) = text.parse::<StoreUrl>() {
                prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }
    }
}
