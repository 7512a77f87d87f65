//! The time a thread has been running.

use std::{fs, time::Duration};

/// How long the calling thread has run on a processor so far, by the kernel's account: what other processes
/// take of the machine does not show in it, what they do to its caches does. `None` where the kernel
/// keeps no such account.
pub fn time_on_cpu() -> Option<Duration> {
    let account = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    account.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
