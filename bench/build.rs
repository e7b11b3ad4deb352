//! Generates the services that are measured: for plug, and for the peers that have a `.proto`, too.

fn main() {
    protoc_gen_plug::Builder::new()
        .bytes(".echo")
        .compile(&["proto/echo.proto", "proto/plain.proto"], &["proto"])
        .unwrap();
    #[cfg(feature = "peers")]
    peers();
}

/// None of these needs protoc.
#[cfg(feature = "peers")]
fn peers() {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    for name in ["tonic", "ttrpc"] {
        std::fs::create_dir_all(out.join(name)).unwrap();
    }
    let files = protox::compile(["proto/echo.proto"], ["proto"]).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out.join("tonic"))
        .compile_fds(files)
        .unwrap();
    ttrpc_codegen::Codegen::new()
        .out_dir(out.join("ttrpc"))
        .inputs(["proto/echo.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize { async_all: true, ..Default::default() })
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(false))
        .run()
        .unwrap();
    std::fs::write(out.join("ttrpc/mod.rs"), "pub mod echo;\npub mod echo_ttrpc;\n").unwrap();
}
