//! Which of several gateways a client uses: one, until it fails; then the next in the client's own order.

use std::{sync::Arc, time::Duration};

use aa_protocol::wire::v1::gateway_client::GatewayClient;
use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::{
    config::Config, error::ClientError, gateway_url::GatewayUrl, session::MAX_FRAME_BYTES,
    transport::Dialer,
};

/// The gateways of a client, for all of its agents. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Gateways {
    inner: Arc<Inner>,
}

/// A connection to one gateway. It is made on first use, and goes when nothing uses it any more.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Tells it from earlier ways to the same gateway.
    turn: usize,
    url: GatewayUrl,
    pub(crate) grpc: GatewayClient<Channel>,
}

#[derive(Debug)]
struct Inner {
    /// In the order they are used in; not empty.
    dialers: Vec<Dialer>,
    in_use: Mutex<Way>,
    request_timeout: Duration,
}

/// The least time that one of several gateways has to answer: registering alone takes four round trips.
const PATIENCE_AT_LEAST: Duration = Duration::from_secs(1);

// === impl Gateways ===

impl Gateways {
    /// Puts the gateways into a random order. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The CA file or an address cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Self, ClientError> {
        let mut dialers = Dialer::for_all(config)?;
        shuffle(&mut dialers);
        let [first, ..] = dialers.as_slice() else {
            return Err(ClientError::System("there is no gateway to connect to".to_owned()));
        };
        let in_use = Mutex::new(Way::dial(first, 0));
        let request_timeout = config.request_timeout;
        Ok(Self { inner: Arc::new(Inner { dialers, in_use, request_timeout }) })
    }

    pub(crate) fn count(&self) -> usize {
        self.inner.dialers.len()
    }

    /// The way to the gateway in use.
    pub(crate) fn in_use(&self) -> Way {
        self.inner.in_use.lock().clone()
    }

    /// Goes on at the next gateway, over a new connection even where there is only one: the old one may be
    /// dead without anybody knowing. An agent that is late to leave follows the one that left before.
    pub(crate) fn leave(&self, way: &Way, problem: &str) {
        let mut in_use = self.inner.in_use.lock();
        if in_use.turn != way.turn {
            return;
        }
        let turn = way.turn.wrapping_add(1);
        // INVARIANT: the remainder is below the length, which is not 0.
        let Some(next) = self.inner.dialers.get(turn % self.count()) else { return };
        *in_use = Way::dial(next, turn);
        tracing::debug!(left = %way.url, next = %in_use.url, problem, "gateway left");
    }

    /// How long one attempt may take.
    pub(crate) fn patience(&self) -> Duration {
        self.silence().unwrap_or(self.inner.request_timeout)
    }

    /// How long a gateway may owe an answer before it is left; `None` when there is no other.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let longest = self.inner.request_timeout;
        (self.count() > 1).then(|| (longest * 2 / 5).max(PATIENCE_AT_LEAST).min(longest))
    }

    /// What went wrong on a way, with its address where that is not clear.
    pub(crate) fn problem_of(&self, way: &Way, problem: String) -> String {
        if self.count() > 1 { format!("{}: {problem}", way.url) } else { problem }
    }
}

// === impl Way ===

impl Way {
    fn dial(dialer: &Dialer, turn: usize) -> Self {
        let grpc = GatewayClient::new(dialer.dial()).max_decoding_message_size(MAX_FRAME_BYTES);
        Self { turn, url: dialer.url().clone(), grpc }
    }
}

/// Fisher and Yates's shuffle.
fn shuffle<T>(items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let mut random = [0_u8; 8];
        // Without randomness the order is merely not spread.
        let _ = getrandom::fill(&mut random);
        let chosen = u64::from_le_bytes(random) % (last as u64 + 1);
        // At most `last`.
        items.swap(last, chosen as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways(urls: &str, request_timeout: Duration) -> Gateways {
        let mut config = Config::from_settings(|name| match name {
            "AAA_WORKSPACE_ID" => Some("ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".to_owned()),
            "AAA_API_KEY" => Some("key".to_owned()),
            "AAA_GATEWAY_URL" => Some(urls.to_owned()),
            _ => None,
        })
        .unwrap();
        config.request_timeout = request_timeout;
        Gateways::new(&config).unwrap()
    }

    const THREE: &str = "http://127.0.0.1:1 http://127.0.0.1:2 http://127.0.0.1:3";

    #[tokio::test]
    async fn a_round_visits_every_gateway_and_begins_again() {
        let gateways = gateways(THREE, Duration::from_secs(5));
        let mut visited = Vec::new();
        for _ in 0..6 {
            let way = gateways.in_use();
            visited.push(way.url.to_string());
            gateways.leave(&way, "");
            // Somebody else on the same way finds it left already.
            gateways.leave(&way, "");
        }
        assert_eq!(visited[..3], visited[3..]);
        visited.truncate(3);
        visited.sort();
        assert_eq!(visited.join(" "), THREE);
    }

    #[tokio::test]
    async fn each_of_several_is_first_for_some_client() {
        let mut first: Vec<_> = (0..200)
            .map(|_| gateways(THREE, Duration::from_secs(5)).in_use().url.to_string())
            .collect();
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 3);
    }

    #[tokio::test]
    async fn only_where_there_is_another_a_silent_gateway_is_left_early() {
        let seconds = Duration::from_secs;
        assert_eq!(gateways(THREE, seconds(5)).silence(), Some(seconds(2)));
        assert_eq!(gateways(THREE, seconds(2)).silence(), Some(seconds(1)));
        let shortest = Duration::from_millis(300);
        assert_eq!(gateways(THREE, shortest).patience(), shortest);
        let only = gateways("http://127.0.0.1:1", seconds(5));
        assert_eq!((only.silence(), only.patience()), (None, seconds(5)));
    }
}
