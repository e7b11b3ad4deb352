//! The plugin for protoc: reads a request from stdin, writes a response to stdout.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::{env, fs};

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match &arguments[..] {
        [] => {
            let mut request = Vec::new();
            io::stdin().read_to_end(&mut request)?;
            io::stdout().write_all(&protoc_gen_plug::generate(&request))
        }
        [flag, folder] if flag == "--include" => {
            fs::create_dir_all(folder)?;
            fs::write(Path::new(folder).join("plug.proto"), protoc_gen_plug::PLUG_PROTO)
        }
        [flag] if flag == "--version" => {
            println!("protoc-gen-plug {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("protoc starts this: protoc --plug_out=DIR FILE.proto");
            eprintln!("or: protoc-gen-plug --include DIR, which writes plug.proto for protoc");
            std::process::exit(64);
        }
    }
}
