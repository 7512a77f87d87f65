#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aa_fuzz::fuzz::scan::target(data));
