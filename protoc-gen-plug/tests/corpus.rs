//! What fuzzing the generator has found, done over: see `fuzz/`.

mod arbitrary;

use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::compiler::CodeGeneratorRequest;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/generator");

#[test]
fn x15_what_fuzzing_has_found_is_refused_or_generated() {
    let mut count = 0;
    for entry in fs::read_dir(CORPUS).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        // The panic of the check comes before this, and says what does not hold.
        if std::panic::catch_unwind(|| arbitrary::check(&data)).is_err() {
            panic!("the check fails for {}", path.display());
        }
        count += 1;
    }
    assert!(count > 5, "there are only {count} inputs");
}

/// Inputs made of the goldens.
#[test]
#[ignore = "writes into fuzz/corpus: cargo test -p protoc-gen-plug --test corpus -- --ignored"]
fn seeds() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for case in ["kv/example", "names/names", "enums/enums", "streams/streams", "proto2/old"] {
        let literal = fs::read_to_string(golden.join(format!("{case}.descriptors"))).unwrap();
        let bytes = syn::parse_str::<syn::LitByteStr>(&literal).unwrap().value();
        let set = FileDescriptorSet::decode(&bytes[..]).unwrap();
        let is_own = |name: &str| !name.starts_with("google/");
        let mut files: Vec<_> = set.file.into_iter().filter(|file| is_own(file.name())).collect();
        files.iter_mut().for_each(|file| file.dependency.retain(|name| is_own(name)));
        let request = CodeGeneratorRequest {
            file_to_generate: files.iter().map(|file| file.name().to_owned()).collect(),
            proto_file: files,
            ..CodeGeneratorRequest::default()
        };
        let input = [&[0][..], &request.encode_to_vec()].concat();
        fs::write(Path::new(CORPUS).join(case.replace('/', "_")), input).unwrap();
    }
}
