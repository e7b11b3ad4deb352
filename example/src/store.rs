use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use plug::{Code, Error};

use crate::{Kv, KvService};

/// A key-value store in a directory: a file a key.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The store in a directory, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> plug::Result<Store> {
        let directory = directory.into();
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        Ok(Store { directory })
    }

    fn path(&self, key: &str) -> plug::Result<PathBuf> {
        Ok(self.directory.join(file_name(key)?))
    }
}

impl Kv for Store {
    fn get(&self, key: String) -> plug::Result<Vec<u8>> {
        let path = self.path(&key)?;
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::new(Code::NotFound, format!("nothing is stored under {key:?}")))
            }
            outcome => Ok(outcome.with_context(|| format!("cannot read {}", path.display()))?),
        }
    }

    fn put(&self, key: String, value: Vec<u8>) -> plug::Result<()> {
        let path = self.path(&key)?;
        replace(&path, &value).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }
}

impl plug::Plugin for Store {
    type Services = KvService;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}

/// Writes a file so that whoever reads it, now or after a crash, finds the old content or the new one, whole.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    /// Calls overlap, so each needs a file of its own.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    // No key has this name: dots are encoded.
    let temporary = path.with_file_name(format!(".{}-{number}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The file for a key: small letters, digits, `-` and `_` as they are, any other byte as `%` and two digits.
///
/// Capitals are encoded too, since some file systems do not tell them from small letters.
fn file_name(key: &str) -> plug::Result<String> {
    if key.is_empty() {
        return Err(Error::new(Code::InvalidArgument, "the key is empty"));
    }
    let mut name = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    if name.len() > LONGEST_NAME {
        let text = format!(
            "the key is too long: its file name would have {} bytes, {LONGEST_NAME} are possible",
            name.len()
        );
        return Err(Error::new(Code::InvalidArgument, text));
    }
    Ok(name)
}

/// What file systems allow for a name, in bytes.
const LONGEST_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_inside_the_directory_whatever_it_is() {
        assert_eq!(file_name("plain-key_1").unwrap(), "plain-key_1");
        assert_eq!(file_name("../../etc/passwd").unwrap(), "%2e%2e%2f%2e%2e%2fetc%2fpasswd");
        assert_eq!(file_name("a\0b").unwrap(), "a%00b");
        assert_eq!(file_name("%").unwrap(), "%25");
        assert_eq!(file_name("é").unwrap(), "%c3%a9");
    }

    #[test]
    fn different_keys_have_different_files_even_if_case_is_ignored() {
        assert_eq!(file_name("A").unwrap(), "%41");
        assert_ne!(file_name("%41").unwrap(), file_name("A").unwrap());
    }

    #[test]
    fn a_key_without_a_possible_file_is_refused() {
        assert_eq!(file_name("").unwrap_err().code(), Code::InvalidArgument);
        assert!(file_name(&"x".repeat(LONGEST_NAME)).is_ok());
        let error = file_name(&"X".repeat(100)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("300 bytes"), "{error}");
    }

    #[test]
    fn nothing_but_the_values_is_left_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.put("k".to_owned(), b"one".to_vec()).unwrap();
        store.put("k".to_owned(), b"two".to_vec()).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["k"]);
        assert_eq!(store.get("k".to_owned()).unwrap(), b"two");
    }
}
