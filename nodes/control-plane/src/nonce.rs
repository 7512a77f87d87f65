//! Registration nonces: each is used once, soon, and for the workspace it was made for.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::Entropy;
use parking_lot::Mutex;

/// How long a nonce stands.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// Nonces outstanding at once; past it the oldest is given up.
const OUTSTANDING: usize = 65_536;

/// A nonce.
pub type Nonce = [u8; 32];

/// The nonces handed out and not used yet.
#[derive(Default)]
pub struct Nonces {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    standing: HashMap<Nonce, (WorkspaceId, Timestamp)>,
    oldest_first: VecDeque<Nonce>,
}

impl Nonces {
    /// Hands out a nonce.
    pub fn issue(&self, workspace: WorkspaceId, now: Timestamp, entropy: &dyn Entropy) -> Nonce {
        let mut nonce = [0; 32];
        entropy.fill(&mut nonce);
        let mut state = self.state.lock();
        while let Some(oldest) = state.oldest_first.front().copied() {
            let is_over =
                state.standing.get(&oldest).is_none_or(|(_, since)| now.since(*since) >= LIFETIME);
            if !is_over && state.oldest_first.len() < OUTSTANDING {
                break;
            }
            state.oldest_first.pop_front();
            state.standing.remove(&oldest);
        }
        state.standing.insert(nonce, (workspace, now));
        state.oldest_first.push_back(nonce);
        nonce
    }

    /// Uses a nonce up; whether it stood for this workspace.
    pub fn redeem(&self, nonce: &Nonce, workspace: WorkspaceId, now: Timestamp) -> bool {
        let standing = self.state.lock().standing.remove(nonce);
        standing
            .is_some_and(|(made_for, since)| made_for == workspace && now.since(since) < LIFETIME)
    }
}

#[cfg(test)]
mod tests {
    use aa_runtime::SystemEntropy;

    use super::*;

    fn workspace(text: &str) -> WorkspaceId {
        format!("ws-{text}-e5f6-7890-abcd-ef1234567890").parse().unwrap()
    }

    #[test]
    fn a_nonce_is_good_once_for_its_workspace_and_soon() {
        let nonces = Nonces::default();
        let (ours, theirs) = (workspace("a1b2c3d4"), workspace("ffffffff"));
        let now = Timestamp::from_micros(0);
        let late = now.saturating_add(LIFETIME);

        let nonce = nonces.issue(ours, now, &SystemEntropy);
        assert!(nonces.redeem(&nonce, ours, now));
        assert!(!nonces.redeem(&nonce, ours, now));

        let nonce = nonces.issue(ours, now, &SystemEntropy);
        assert!(!nonces.redeem(&nonce, theirs, now));

        let nonce = nonces.issue(ours, now, &SystemEntropy);
        assert!(!nonces.redeem(&nonce, ours, late));
        assert!(!nonces.redeem(&[0; 32], ours, now));
    }

    #[test]
    fn what_is_never_used_is_bounded() {
        let nonces = Nonces::default();
        let now = Timestamp::from_micros(0);
        for _ in 0..OUTSTANDING + 100 {
            nonces.issue(workspace("a1b2c3d4"), now, &SystemEntropy);
        }
        assert_eq!(nonces.state.lock().standing.len(), OUTSTANDING);
    }
}
