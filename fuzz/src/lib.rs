//! What the generated target `kv` fuzzes.

use std::path::PathBuf;
use std::{fs, process};

use plug_example::Store;

/// The example's store, empty, in a folder of this process's.
///
/// # Panics
///
/// If there can be no such folder.
pub fn store() -> Store {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/kv").join(process::id().to_string());
    let _ = fs::remove_dir_all(&folder);
    Store::open(folder).expect("a folder for the store")
}
