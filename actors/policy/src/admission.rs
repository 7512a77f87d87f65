//! Admissions: decisions that allow, each made once and shared.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

use crate::{
    decide::Outcome,
    policy::Site,
    set::{Applicable, Document},
};

/// The outcome of every action that the same entries of the same documents admit.
pub struct Admission {
    outcome: Outcome,
    annex: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// The admissions of the agents that the same documents cover. A table of fixed size that is only ever
/// filled: what finds no place in it is made anew each time.
#[derive(Debug, Default)]
pub(crate) struct Admissions(OnceLock<Box<[Slot]>>);

/// The documents that apply to an action and the entries in them that admit it, as the addresses of
/// both: they stay where they are as long as the set that an admission belongs to.
pub(crate) struct Sites {
    addresses: [usize; 2 * MAX_DOCUMENTS],
    documents: usize,
    hash: usize,
}

type Slot = OnceLock<(Box<[usize]>, Arc<Admission>)>;

/// With more documents than this, admissions are not kept.
const MAX_DOCUMENTS: usize = 8;
const SLOTS: usize = 256;
/// Slots that are tried for one admission.
const TRIES: usize = 4;

// === impl Admission ===

impl Admission {
    pub(crate) fn new(outcome: Outcome) -> Self {
        Self { outcome, annex: OnceLock::new() }
    }

    /// The outcome; its verdict is `Allow`.
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What the caller derives from the outcome, such as its text in a log: made at the first call and
    /// kept as long as the admission. `None` when an earlier call has left a value of another type.
    pub fn annex<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Outcome) -> T) -> Option<&T> {
        self.annex.get_or_init(|| Box::new(make(&self.outcome))).downcast_ref()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admission").field(&self.outcome).finish()
    }
}

// === impl Admissions ===

impl Admissions {
    pub(crate) fn get_or_make(
        &self,
        sites: &Sites,
        make: impl FnOnce() -> Admission,
    ) -> Arc<Admission> {
        let Some(key) = sites.key() else { return Arc::new(make()) };
        let slots = self.0.get_or_init(|| (0..SLOTS).map(|_| Slot::new()).collect());
        let mut free = None;
        for slot in (0..TRIES).filter_map(|next| slots.get((sites.hash + next) % SLOTS)) {
            match slot.get() {
                Some((known, admission)) if **known == *key => return Arc::clone(admission),
                Some(_) => {}
                None => {
                    free = Some(slot);
                    break;
                }
            }
        }
        let admission = Arc::new(make());
        if let Some(slot) = free {
            // Another thread may have been first: then this one is not kept.
            let _ = slot.set((key.into(), Arc::clone(&admission)));
        }
        admission
    }
}

// === impl Sites ===

impl Sites {
    pub(crate) fn of<'s>(
        documents: &Applicable<'s>,
        admitting: impl Fn(&'s Document) -> Option<&'s Site>,
    ) -> Self {
        let mut addresses = [0; 2 * MAX_DOCUMENTS];
        let mut hash = 0_usize;
        for (pair, document) in addresses.chunks_exact_mut(2).zip(documents.iter()) {
            let of_document = std::ptr::from_ref(document).addr();
            let of_site = admitting(document).map_or(0, |site| std::ptr::from_ref(site).addr());
            pair.copy_from_slice(&[of_document, of_site]);
            for address in [of_document, of_site] {
                // Multiplication by 2⁶⁴ over the golden ratio spreads addresses; the high bits are the best.
                hash = (hash.rotate_left(5) ^ address)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize);
            }
        }
        Self { addresses, documents: documents.len(), hash: hash >> (usize::BITS - 16) }
    }

    fn key(&self) -> Option<&[usize]> {
        self.addresses.get(..2 * self.documents)
    }
}
