//! The client's one network thread, and what is set once for all clusters of the process.

use std::path::PathBuf;

use aa_fdb_network::NetworkError;
use foundationdb::{FdbResult, api::NetworkBuilder, options::NetworkOption};
use parking_lot::Mutex;

use crate::{FdbTls, FdbUrl};

/// Stops the FoundationDB client's network thread when dropped: the thread must end before the process
/// does. A program that may open an [`FdbStore`](crate::FdbStore) holds one in its `main`, declared before
/// its runtime, so that it is dropped after all that uses the store. After that no store of the process
/// works, nor can one be opened.
#[derive(Debug, Default)]
#[must_use = "the thread stops when this is dropped"]
pub struct FdbNetwork(());

/// What the client takes when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    tls: Option<FdbTls>,
    client_library: Option<PathBuf>,
}

/// The settings of the running client.
static SETTINGS: Mutex<Option<Settings>> = Mutex::new(None);

// === impl FdbNetwork ===

impl FdbNetwork {
    /// Takes on to stop the thread, whether it will ever be started or not.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Drop for FdbNetwork {
    fn drop(&mut self) {
        aa_fdb_network::stop();
    }
}

/// Starts the thread, or makes sure that it was started with the same settings.
pub(super) fn start(url: &FdbUrl) -> Result<(), String> {
    let wanted = Settings { tls: url.tls.clone(), client_library: url.client_library.clone() };
    let mut settings = SETTINGS.lock();
    if settings.as_ref().is_some_and(|settings| *settings != wanted) {
        return Err(
            "this process speaks to FoundationDB with other TLS files or another client_library \
                    already, and can have one set of them only; name the same ones for all clusters"
                .to_owned(),
        );
    }
    if let Some(tls) = &wanted.tls {
        // The client would say of none of them which it is.
        let files = [Some(&tls.certificate), Some(&tls.key), tls.ca.as_ref()];
        for file in files.into_iter().flatten() {
            std::fs::read(file).map_err(|error| {
                format!("the TLS file {} cannot be read: {error}", file.display())
            })?;
        }
    }
    aa_fdb_network::start(|builder| configure(builder, &wanted))
        .map_err(|error: NetworkError| error.to_string())?;
    *settings = Some(wanted);
    Ok(())
}

fn configure(mut builder: NetworkBuilder, settings: &Settings) -> FdbResult<NetworkBuilder> {
    let path = |path: &PathBuf| path.display().to_string();
    if let Some(FdbTls { certificate, key, ca, verify_peers }) = &settings.tls {
        builder = builder.set_option(NetworkOption::TLSCertPath(path(certificate)))?;
        builder = builder.set_option(NetworkOption::TLSKeyPath(path(key)))?;
        if let Some(ca) = ca {
            builder = builder.set_option(NetworkOption::TLSCaPath(path(ca)))?;
        }
        if let Some(verify_peers) = verify_peers {
            let verify_peers = verify_peers.clone().into_bytes();
            builder = builder.set_option(NetworkOption::TLSVerifyPeers(verify_peers))?;
        }
    }
    if let Some(library) = &settings.client_library {
        builder = builder.set_option(NetworkOption::ExternalClientLibrary(path(library)))?;
    }
    Ok(builder)
}
