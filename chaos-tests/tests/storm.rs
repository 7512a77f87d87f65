//! The storm, in small: `make storm` lets it rage for longer.

use std::process::ExitCode;

fn main() -> ExitCode {
    aa_chaos_tests::storm::test_main()
}
