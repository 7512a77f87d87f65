//! What FoundationDB's errors mean to a caller.

use std::{borrow::Cow, time::Duration};

use foundationdb::FdbError;

use super::KIND;
use crate::{CommitError, LimitError, MAX_TRANSACTION_AGE, StoreError};

const TRANSACTION_TOO_OLD: i32 = 1007;
const FUTURE_VERSION: i32 = 1009;
const NOT_COMMITTED: i32 = 1020;
const TOO_MANY_WATCHES: i32 = 1032;
const TRANSACTION_TOO_LARGE: i32 = 2101;
/// Mistakes of a client, found before anything is sent.
const CLIENT_ERRORS: std::ops::Range<i32> = 2000..3000;

/// What a failed begin, read or watch means, for a transaction of this age.
pub(super) fn of_read(error: FdbError, age: Duration) -> StoreError {
    match error.code() {
        // The version may be older than the transaction.
        TRANSACTION_TOO_OLD => StoreError::TooOld { age: age.max(MAX_TRANSACTION_AGE) },
        TOO_MANY_WATCHES => StoreError::TooManyWatches,
        _ => unavailable(error),
    }
}

/// What a failed commit means, for a transaction of so many bytes. What is not known to have left no trace
/// may have been applied.
pub(super) fn of_commit(error: FdbError, bytes: usize) -> CommitError {
    match error.code() {
        NOT_COMMITTED | TRANSACTION_TOO_OLD | FUTURE_VERSION => CommitError::Conflict,
        TRANSACTION_TOO_LARGE => CommitError::TooLarge(LimitError::Transaction { bytes }),
        code if error.is_retryable_not_committed() || CLIENT_ERRORS.contains(&code) => {
            CommitError::Store(unavailable(error))
        }
        _ => CommitError::UnknownResult(unavailable(error)),
    }
}

/// The cluster did not answer in time.
pub(super) const fn timed_out() -> StoreError {
    StoreError::Unavailable { kind: KIND, why: Cow::Borrowed("the cluster did not answer in time") }
}

pub(super) fn unavailable(error: FdbError) -> StoreError {
    let why = format!("{} (FoundationDB error {})", error.message(), error.code());
    StoreError::Unavailable { kind: KIND, why: Cow::Owned(why) }
}

/// Why a cluster cannot be opened.
pub(super) fn advice(error: FdbError) -> String {
    let (message, code) = (error.message(), error.code());
    format!("{message} (FoundationDB error {code}); check the cluster file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(code: i32) -> CommitError {
        of_commit(FdbError::from_code(code), 7)
    }

    #[test]
    fn a_commit_that_may_have_been_applied_is_never_called_refused() {
        for code in [1007, 1009, 1020] {
            assert!(matches!(commit(code), CommitError::Conflict), "{code}");
        }
        // Unknown result, timed out, cancelled, cluster version changed, broken promise, and one unknown.
        for code in [1021, 1031, 1025, 1039, 1100, 1101, 1999, 4000] {
            assert!(matches!(commit(code), CommitError::UnknownResult(_)), "{code}");
        }
        // Process behind, database locked, proxy memory limit.
        for code in [1037, 1042] {
            assert!(matches!(commit(code), CommitError::Store(_)), "{code}");
        }
        let too_large = commit(2101);
        assert!(matches!(too_large, CommitError::TooLarge(LimitError::Transaction { bytes: 7 })));
    }

    #[test]
    fn a_read_says_too_old_or_unavailable_in_foundationdbs_words() {
        let read = |code| of_read(FdbError::from_code(code), Duration::ZERO);
        assert!(matches!(read(1007), StoreError::TooOld { .. }));
        assert!(matches!(read(1032), StoreError::TooManyWatches));
        let unavailable = read(1009).to_string();
        assert!(unavailable.contains("FoundationDB error 1009"), "{unavailable}");
    }
}
