//! Names to addresses: bounded, patient to a point, and asked once for all who want the same.

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use aa_reach::HostName;
use async_trait::async_trait;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::DialOptions;
use crate::recent::Recent;

/// Resolves names. The system's resolver is [`SystemLookup`]; tests bring their own.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of a name, best first.
    ///
    /// # Errors
    /// The name has none, or the resolver failed.
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the operating system (`getaddrinfo`), with its hosts file and search domains.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The resolver knows none.
    NoAddress,
    /// The resolver did not answer in time.
    TimedOut,
    /// Too many other names are being looked up.
    Busy,
}

/// Asks a [`Lookup`], and remembers what it answered for a moment.
pub(super) struct Resolver {
    lookup: Arc<dyn Lookup>,
    patience: Duration,
    remember: Duration,
    remember_failure: Duration,
    names: Recent<HostName, Arc<Slot>>,
    /// How many names may be asked for at a time. A look-up that nobody waits for any more still takes its place: the
    /// system's resolver cannot be interrupted.
    places: Arc<Semaphore>,
    /// How many may wait for such a place.
    queue: Arc<Semaphore>,
}

/// One name's place.
#[derive(Default)]
struct Slot(Mutex<Option<Asked>>);

/// A question on its way, or answered.
struct Asked {
    answer: Shared<BoxFuture<'static, Answer>>,
    /// When the answer came.
    answered: Arc<Mutex<Option<Instant>>>,
}

type Answer = Result<Arc<[IpAddr]>, Unresolved>;

const MAX_NAMES: usize = 4_096;
const MAX_LOOKUPS: usize = 64;
const MAX_QUEUE: usize = 1_024;
/// More addresses of a name are not looked at.
const MAX_FOUND: usize = 64;

// === impl SystemLookup ===

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

// === impl Resolver ===

impl Resolver {
    pub(super) fn new(lookup: Arc<dyn Lookup>, options: &DialOptions) -> Self {
        Self {
            lookup,
            patience: options.resolve,
            remember: options.remember,
            remember_failure: options.remember_failure,
            names: Recent::new(MAX_NAMES),
            places: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            queue: Arc::new(Semaphore::new(MAX_QUEUE)),
        }
    }

    /// The addresses of a name; at least one.
    pub(super) async fn resolve(&self, name: &HostName) -> Answer {
        let slot = self.names.get_or_insert_with(name, Arc::default);
        let answer = self.asked(&slot, name)?;
        timeout(self.patience, answer).await.unwrap_or(Err(Unresolved::TimedOut))
    }

    /// The answer that is there or on its way, unless it is too old; else the name is asked for.
    fn asked(
        &self,
        slot: &Slot,
        name: &HostName,
    ) -> Result<Shared<BoxFuture<'static, Answer>>, Unresolved> {
        let mut asked = slot.0.lock();
        let current = match asked.take().filter(|asked| self.is_good(asked)) {
            Some(current) => current,
            None => self.ask(name.clone())?,
        };
        Ok(asked.insert(current).answer.clone())
    }

    fn is_good(&self, asked: &Asked) -> bool {
        let Some(answered) = *asked.answered.lock() else { return true };
        let remember = match asked.answer.peek() {
            Some(Ok(_)) => self.remember,
            _ => self.remember_failure,
        };
        answered.elapsed() < remember
    }

    /// Asks in a task of its own, which goes on when all who wait have given up.
    fn ask(&self, name: HostName) -> Result<Asked, Unresolved> {
        let waiting = Arc::clone(&self.queue).try_acquire_owned();
        let waiting = waiting.map_err(|_| Unresolved::Busy)?;
        let (lookup, places) = (Arc::clone(&self.lookup), Arc::clone(&self.places));
        let answered = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&answered);
        let task = tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            drop(waiting);
            let found = lookup.lookup(&name).await;
            if let Err(error) = &found {
                tracing::debug!(%name, %error, "a name could not be resolved");
            }
            // Here, for it may be that nobody waits any more.
            *noted.lock() = Some(Instant::now());
            let found = found.unwrap_or_default().into_iter().take(MAX_FOUND);
            found.collect::<Arc<[IpAddr]>>()
        });
        let noted = Arc::clone(&answered);
        let answer = async move {
            let found = task.await.unwrap_or_else(|_| {
                // It panicked, or the runtime ends.
                *noted.lock() = Some(Instant::now());
                Arc::default()
            });
            if found.is_empty() { Err(Unresolved::NoAddress) } else { Ok(found) }
        };
        Ok(Asked { answer: answer.boxed().shared(), answered })
    }
}

// === impl Unresolved ===

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "no address of it is known; see whether the name is right",
            Self::TimedOut => "the resolver does not answer; see whether this machine's DNS works",
            Self::Busy => "too many names are being looked up; try again in a moment",
        })
    }
}
