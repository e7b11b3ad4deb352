#![no_main]

#[path = "../../protoc-gen-plug/tests/arbitrary/mod.rs"]
mod arbitrary_requests;

libfuzzer_sys::fuzz_target!(|data: &[u8]| arbitrary_requests::check(data));
