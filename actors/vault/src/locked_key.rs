//! 32 secret bytes on a memory page of their own, kept out of swap where the system allows it.

use region::LockGuard;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::random::{self, RandomError};

/// A 256-bit key. It is wiped on drop, compared in constant time, never copied, and printed by nothing.
pub(crate) struct LockedKey {
    // Dropped before the page, which must be mapped while it is unlocked.
    guard: Option<LockGuard>,
    page: Box<Page>,
}

/// A page is locked and unlocked as a whole: two keys on one would unlock each other. Where pages are
/// larger than this, that can still happen, and the neighbour may then be swapped out.
#[repr(align(4096))]
struct Page([u8; PAGE]);

const PAGE: usize = 4096;
const KEY: usize = 32;

// === impl LockedKey ===

impl LockedKey {
    /// A fresh key.
    pub(crate) fn random() -> Result<Self, RandomError> {
        let mut key = Self::empty();
        random::fill(&mut key.page.0[..KEY])?;
        Ok(key)
    }

    pub(crate) fn new(bytes: &Zeroizing<[u8; KEY]>) -> Self {
        let mut key = Self::empty();
        key.page.0[..KEY].copy_from_slice(bytes.as_slice());
        key
    }

    /// Locks the page before it holds anything. A refusal, such as a spent `RLIMIT_MEMLOCK`, leaves it
    /// unlocked: a secret that might be swapped out serves its owner better than none.
    fn empty() -> Self {
        let page = Box::new(Page([0; PAGE]));
        let guard = region::lock(page.0.as_ptr(), PAGE).ok();
        Self { guard, page }
    }

    /// Whether the system keeps it out of swap.
    pub(crate) const fn is_locked(&self) -> bool {
        self.guard.is_some()
    }

    pub(crate) fn expose(&self) -> &[u8; KEY] {
        self.page.0.first_chunk().expect("a page is longer than a key")
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        self.page.0[..KEY].zeroize();
    }
}
