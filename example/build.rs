//! Generates traits, proxies and messages from the `.proto` files.

fn main() {
    protoc_gen_plug::compile(
        &["proto/host.proto", "proto/kv.proto", "proto/serializer.proto"],
        &["proto"],
    )
    .unwrap();
}
