//! The laws once more, on a store that flushes and switches segments all the time.

use std::sync::Arc;

use super::faults::open;
use crate::{SimDisk, Store};

crate::conformance_suite!({
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    (Arc::new(store) as Arc<dyn Store>, disk)
});
