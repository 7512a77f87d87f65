//! What a process can do so that its memory does not become a file.

use rustix::{
    mm::MlockAllFlags,
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};

/// Whether the memory of the whole process is kept out of swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Only the pages of keys are, which need no privilege.
    KeysOnly,
    /// All pages are, those to come included. It takes `CAP_IPC_LOCK` or an `RLIMIT_MEMLOCK` above all the
    /// process will ever use: memory past the limit is refused to it.
    Nothing,
}

/// A protection that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {attempt}: {error}; {remedy}")]
pub struct HardenError {
    /// What was tried.
    pub attempt: &'static str,
    /// The system's reason.
    pub error: std::io::Error,
    /// What to do.
    pub remedy: &'static str,
}

/// Keeps the memory of this process out of core dumps, away from debuggers of the same user, and, as `swap`
/// says, out of swap. For a program to call once, before it reads any secret. Its children inherit the limit
/// on core dumps, and nothing else. From then on other processes of the same user cannot read its environment
/// or its memory in `/proc`, and unless it is root's it can itself not list `/proc/self/fd`.
///
/// # Errors
/// The system refuses; what came before holds.
pub fn harden_process(swap: Swap) -> Result<(), HardenError> {
    let refused = |attempt, remedy| {
        move |error: rustix::io::Errno| HardenError { attempt, error: error.into(), remedy }
    };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(refused("forbid core dumps", "allow `setrlimit` to this process"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(refused("forbid core dumps and debuggers", "allow `prctl` to this process"))?;
    if swap == Swap::Nothing {
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).map_err(refused(
            "keep all memory out of swap",
            "give the process CAP_IPC_LOCK (systemd: `LimitMEMLOCK=infinity`)",
        ))?;
    }
    Ok(())
}

/// How many bytes this process may lock, by which how many keys it can keep out of swap; `None` when there
/// is no limit.
pub fn lockable_bytes() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}
