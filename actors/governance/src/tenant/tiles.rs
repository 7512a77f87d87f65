//! The tiles of a workspace's Merkle tree, read from the store for the ledger's pure functions.

use std::{cell::RefCell, collections::HashMap};

use aa_ledger::{TileError, TileId, TileReader};
use aa_protocol::WorkspaceId;
use aa_store::{Store, StoreError};

use crate::keys;

/// The tiles fetched so far.
pub(crate) struct FetchedTiles {
    tiles: HashMap<TileId, Option<Vec<u8>>>,
    wanted: RefCell<Option<TileId>>,
}

/// A tile is wanted that was not fetched yet.
#[derive(Debug)]
pub(crate) struct NotFetched;

/// The tree could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TilesUnreadable {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the Merkle tree of the audit log is damaged ({0}); restore the store from a backup")]
    Damaged(String),
}

impl TileReader for FetchedTiles {
    type Error = NotFetched;

    fn tile(&self, id: TileId) -> Result<Option<Vec<u8>>, NotFetched> {
        match self.tiles.get(&id) {
            Some(tile) => Ok(tile.clone()),
            None => {
                self.wanted.replace(Some(id));
                Err(NotFetched)
            }
        }
    }
}

/// Runs `read` over the workspace's tiles. The ledger's functions are pure and synchronous, so `read` is
/// run again for every tile it turns out to need: a handful, as a tree has one path of tiles per level.
pub(crate) async fn with_tiles<T>(
    store: &dyn Store,
    workspace: WorkspaceId,
    read: impl Fn(&FetchedTiles) -> Result<T, TileError<NotFetched>> + Send,
) -> Result<T, TilesUnreadable> {
    let mut tiles = HashMap::new();
    loop {
        let (result, wanted) = {
            let fetched = FetchedTiles { tiles, wanted: RefCell::new(None) };
            let result = read(&fetched).map_err(|error| error.to_string());
            tiles = fetched.tiles;
            (result, fetched.wanted.into_inner())
        };
        match (result, wanted) {
            (Ok(value), _) => return Ok(value),
            (Err(_), Some(id)) => {
                let mut txn = store.begin().await?;
                let tile = txn.get_snapshot(&keys::tile(workspace, id.level, id.index)).await?;
                tiles.insert(id, tile.map(|tile| tile.to_vec()));
            }
            (Err(problem), None) => return Err(TilesUnreadable::Damaged(problem)),
        }
    }
}

impl std::fmt::Display for NotFetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a tile is not fetched yet")
    }
}

impl std::error::Error for NotFetched {}
