//! The protoc that comes with the tests, with its well-known files on the path.
//!
//! ```sh
//! cargo run -p protoc-gen-plug --example protoc -- --version
//! ```

use std::env;
use std::process::{Command, exit};

fn main() {
    let protoc =
        protoc_bin_vendored::protoc_bin_path().expect("there is a protoc for this platform");
    let include = protoc_bin_vendored::include_path().expect("it comes with its files");
    let status = Command::new(protoc)
        .args(env::args_os().skip(1))
        .arg("-I")
        .arg(include)
        .status()
        .expect("protoc can be started");
    exit(status.code().unwrap_or(1));
}
