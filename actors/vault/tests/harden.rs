//! What hardening does to the process; in a test program of its own, for it cannot be undone.

use aa_vault::{Swap, harden_process, lockable_bytes};
use rustix::process::{DumpableBehavior, dumpable_behavior};

#[test]
fn a_hardened_process_leaves_no_core_dump_and_no_debugger_in() {
    harden_process(Swap::KeysOnly).unwrap();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().rev().nth(1), Some("0"), "hard limit: {core}");
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);

    // Twice is as good as once.
    harden_process(Swap::KeysOnly).unwrap();
    // All memory needs a privilege or a large limit; a refusal says which.
    match harden_process(Swap::Nothing) {
        Ok(()) => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            assert_ne!(locked.trim(), "0 kB");
        }
        Err(error) => {
            assert!(lockable_bytes().is_some());
            assert!(error.to_string().contains("CAP_IPC_LOCK"), "{error}");
        }
    }
}
