//! Real control planes under fire: `storm [SECONDS] [SEED] [NODES]`.
//!
//! It ends with what held, with what failed, its seed and all that was done, or with what could not be run here.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    aa_chaos_tests::storm::main()
}
