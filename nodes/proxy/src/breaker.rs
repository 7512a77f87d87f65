//! Keeps from asking an upstream that does not answer.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::target::Authority;

/// Of every upstream that has failed lately, how it stands. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Breakers {
    settings: Settings,
    standing: Arc<Mutex<HashMap<Authority, Standing>>>,
}

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many failures in a row open it; 0 never does.
    pub failures: u32,
    /// How long nobody asks the upstream then. One request asks first after that; if it fails, the time begins anew.
    pub pause: Duration,
}

/// An upstream is not asked just now.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{upstream} did not answer {failures} times in a row and is not asked again for {} ms",
    retry_after.as_millis()
)]
pub(crate) struct Open {
    pub(crate) upstream: Authority,
    pub(crate) failures: u32,
    pub(crate) retry_after: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    failures: u32,
    /// Not asked before.
    closed_until: Option<Instant>,
}

/// At most so many upstreams are remembered; further ones are asked without.
const MAX_REMEMBERED: usize = 10_000;

// === impl Breakers ===

impl Breakers {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, standing: Arc::default() }
    }

    /// Whether the upstream may be asked now.
    pub(crate) fn admit(&self, upstream: &Authority, now: Instant) -> Result<(), Open> {
        let mut standing = self.standing.lock();
        let Some(Standing { failures, closed_until: Some(until) }) = standing.get_mut(upstream)
        else {
            return Ok(());
        };
        if *until <= now {
            // Whoever comes now is the probe; who comes while it is under way waits for another pause.
            *until = now + self.settings.pause;
            return Ok(());
        }
        let retry_after = *until - now;
        Err(Open { upstream: upstream.clone(), failures: *failures, retry_after })
    }

    /// The upstream answered something.
    pub(crate) fn answered(&self, upstream: &Authority) {
        let mut standing = self.standing.lock();
        if !standing.is_empty() {
            standing.remove(upstream);
        }
    }

    /// The upstream could not be reached, or did not answer.
    pub(crate) fn failed(&self, upstream: &Authority, now: Instant) {
        if self.settings.failures == 0 {
            return;
        }
        let mut standing = self.standing.lock();
        if standing.len() >= MAX_REMEMBERED && !standing.contains_key(upstream) {
            standing.retain(|_, standing| standing.closed_until.is_some_and(|until| until > now));
            if standing.len() >= MAX_REMEMBERED {
                return;
            }
        }
        let standing = standing
            .entry(upstream.clone())
            .or_insert(Standing { failures: 0, closed_until: None });
        standing.failures = standing.failures.saturating_add(1);
        if standing.failures >= self.settings.failures {
            standing.closed_until = Some(now + self.settings.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_asks_after_the_pause() {
        let pause = Duration::from_secs(10);
        let breakers = Breakers::new(Settings { failures: 3, pause });
        let upstream: Authority = "api.example.com:443".parse().unwrap();
        let start = Instant::now();
        for _ in 0..3 {
            breakers.admit(&upstream, start).unwrap();
            breakers.failed(&upstream, start);
        }
        let open = breakers.admit(&upstream, start + Duration::from_secs(4)).unwrap_err();
        assert_eq!((open.failures, open.retry_after), (3, Duration::from_secs(6)));

        breakers.admit(&upstream, start + pause).unwrap();
        breakers.admit(&upstream, start + pause).unwrap_err();
        breakers.answered(&upstream);
        breakers.admit(&upstream, start + pause).unwrap();
    }

    #[test]
    fn an_answer_forgets_failures() {
        let breakers = Breakers::new(Settings { failures: 2, pause: Duration::from_secs(10) });
        let upstream: Authority = "api.example.com:443".parse().unwrap();
        let now = Instant::now();
        for _ in 0..10 {
            breakers.failed(&upstream, now);
            breakers.answered(&upstream);
        }
        breakers.admit(&upstream, now).unwrap();
    }
}
