//! A token that is renewed by writing it into its file.

use std::{path::PathBuf, sync::Weak, time::Duration};

use aa_vault::master_key::transit::TransitMasterKey;

use super::access;

/// How often the file is read.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Takes the token that the file holds, as long as the key is in use.
pub(super) async fn follow(path: PathBuf, key: Weak<TransitMasterKey>) {
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let Some(key) = key.upgrade() else { return };
        let taken = match access(&path) {
            Ok(token) => key.set_token(token).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(problem) = taken {
            tracing::warn!(problem, "the token of the key service was not read anew");
        }
    }
}
