//! Generates the service that is measured.

fn main() {
    protoc_gen_plug::compile(&["proto/echo.proto"], &["proto"]).unwrap();
}
