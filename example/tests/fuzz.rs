//! What fuzzing the store has found, done over. The target is generated: see `fuzz/`.

use std::fs;
use std::path::Path;

use plug_example::Store;

#[test]
fn what_fuzzing_has_found_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/kv");
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        // Shown if the handler panics.
        println!("{}", path.display());
        plug::fuzz(&store, "example.KV", &data);
        count += 1;
    }
    assert!(count > 5, "there are only {count} inputs");
}
