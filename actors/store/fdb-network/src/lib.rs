//! The network thread of the FoundationDB client: started once per process, and stopped before it ends.
//!
//! It refuses to know what is stored. It is a crate of its own because starting the thread is the one
//! call of the project that the compiler cannot check: all other crates forbid `unsafe`.
#![cfg(feature = "client")]

use foundationdb::{
    FdbError, FdbResult,
    api::{FdbApiBuilder, NetworkAutoStop, NetworkBuilder, get_max_api_version},
};
use parking_lot::Mutex;

/// The version of the client's interface that the project is written for: 7.3.
pub const API_VERSION: i32 = 730;

/// Why the thread does not run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// The client library is older than [`API_VERSION`].
    #[error(
        "libfdb_c knows version {found} of its interface at most; install that of FoundationDB 7.3 or later"
    )]
    TooOld {
        /// The latest version it knows.
        found: i32,
    },
    /// The client can be started once per process only.
    #[error(
        "the FoundationDB client of this process was stopped, or failed to start; restart the process"
    )]
    Stopped,
    /// The client refused, as it does with options that it cannot use.
    #[error("the FoundationDB client does not start: {0}; check its TLS files and its library")]
    Refused(#[from] FdbError),
}

enum Network {
    Idle,
    Running {
        /// Stops and joins the thread when dropped.
        _thread: NetworkAutoStop,
    },
    /// For ever: the client cannot be started again.
    Stopped,
}

static NETWORK: Mutex<Network> = Mutex::new(Network::Idle);

/// Starts the thread unless it runs. Only the call that starts it calls `configure`.
///
/// The process must call [`stop`] before it ends in an orderly way: the thread must not run while the
/// client library is torn down.
///
/// # Errors
/// See [`NetworkError`]. After a failure all further calls fail: the client cannot be set up twice.
pub fn start(
    configure: impl FnOnce(NetworkBuilder) -> FdbResult<NetworkBuilder>,
) -> Result<(), NetworkError> {
    let mut network = NETWORK.lock();
    match *network {
        Network::Running { .. } => return Ok(()),
        Network::Stopped => return Err(NetworkError::Stopped),
        Network::Idle => {}
    }
    let found = get_max_api_version();
    if found < API_VERSION {
        return Err(NetworkError::TooOld { found });
    }
    *network = Network::Stopped;
    let builder = FdbApiBuilder::default().set_runtime_version(API_VERSION).build()?;
    *network = Network::Running { _thread: boot(configure(builder)?)? };
    Ok(())
}

/// Stops the thread and joins it. Nothing of the client works afterwards, and it cannot be started again:
/// for the end of the process. Does nothing if it does not run.
pub fn stop() {
    let mut network = NETWORK.lock();
    if matches!(*network, Network::Running { .. }) {
        *network = Network::Stopped;
    }
}

#[allow(unsafe_code)]
fn boot(builder: NetworkBuilder) -> FdbResult<NetworkAutoStop> {
    // SAFETY: what is returned must be dropped before the process ends: `stop` does, which whoever
    // starts the thread is told to call. The library is set up once, under the lock.
    unsafe { builder.boot() }
}
