//! Generates the service that the tests call.

fn main() {
    protoc_gen_plug::compile(
        &["proto/probe.proto", "proto/flow.proto", "proto/chaos.proto"],
        &["proto"],
    )
    .unwrap();
}
