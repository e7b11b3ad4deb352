use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use plug::{Code, Error};
use tempfile::NamedTempFile;

/// Values in a directory: a file a key.
pub(crate) struct Files {
    directory: PathBuf,
}

/// A value that is on the disk, and not under its key yet. Dropped, it leaves nothing behind.
pub(crate) struct Draft {
    file: NamedTempFile,
    path: PathBuf,
}

impl Files {
    /// Makes the directory if it does not exist.
    pub(crate) fn open(directory: PathBuf) -> plug::Result<Files> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        Ok(Files { directory })
    }

    pub(crate) fn read(&self, key: &str) -> plug::Result<Option<Vec<u8>>> {
        let path = self.path(key)?;
        match fs::read(&path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display()))?,
        }
    }

    pub(crate) fn write(&self, key: &str, value: &[u8]) -> plug::Result<Draft> {
        let path = self.path(key)?;
        let write = || -> io::Result<NamedTempFile> {
            // No key has such a name: dots are encoded.
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.directory)?;
            file.write_all(value)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = write().with_context(|| cannot_write(&path))?;
        Ok(Draft { file, path })
    }

    /// The keys that begin with `prefix`, in their order.
    pub(crate) fn keys(&self, prefix: &str) -> plug::Result<Vec<String>> {
        let list = || -> io::Result<Vec<String>> {
            let mut keys = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let entry = entry?;
                let key = key_of(&entry.file_name()).filter(|key| key.starts_with(prefix));
                if entry.file_type()?.is_file() {
                    keys.extend(key);
                }
            }
            keys.sort();
            Ok(keys)
        };
        Ok(list().with_context(|| format!("cannot list {}", self.directory.display()))?)
    }

    fn path(&self, key: &str) -> plug::Result<PathBuf> {
        Ok(self.directory.join(file_name(key)?))
    }
}

impl Draft {
    /// Puts the value under its key. Who reads it, now or after a crash, finds the value from before or this
    /// one, whole.
    pub(crate) fn replace(self) -> plug::Result<()> {
        self.file.persist(&self.path).with_context(|| cannot_write(&self.path))?;
        Ok(())
    }

    /// Puts the value under its key unless there is one. Returns whether it did.
    pub(crate) fn place_if_absent(self) -> plug::Result<bool> {
        match self.file.persist_noclobber(&self.path) {
            Ok(_) => Ok(true),
            Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| cannot_write(&self.path))?,
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
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

/// The key of a file, or `None` for a file that is none of ours.
fn key_of(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    let mut key = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    let key = String::from_utf8(key).ok()?;
    file_name(&key).is_ok_and(|expected| expected == name).then_some(key)
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
    fn a_file_has_the_key_that_it_was_made_for_and_others_have_none() {
        for key in ["plain-key_1", "../Odd key/\0\u{e9}", "%41"] {
            let name = file_name(key).unwrap();
            assert_eq!(key_of(OsStr::new(&name)).as_deref(), Some(key));
        }
        for name in [".new-1", "README", "a.txt", "%4", "%zz", "%2D", "%ff"] {
            assert_eq!(key_of(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn nothing_but_the_values_is_left_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path().to_owned()).unwrap();
        files.write("k", b"one").unwrap().replace().unwrap();
        files.write("k", b"two").unwrap().replace().unwrap();
        assert!(!files.write("k", b"three").unwrap().place_if_absent().unwrap());
        drop(files.write("other", b"never placed").unwrap());
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["k"]);
        assert_eq!(files.read("k").unwrap().unwrap(), b"two");
        assert_eq!(files.read("other").unwrap(), None);
    }

    #[test]
    fn keys_are_listed_by_prefix_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path().to_owned()).unwrap();
        for key in ["b", "a/2", "a/1", "A"] {
            files.write(key, b"").unwrap().replace().unwrap();
        }
        fs::create_dir(directory.path().join("a-directory")).unwrap();
        assert_eq!(files.keys("a/").unwrap(), ["a/1", "a/2"]);
        assert_eq!(files.keys("").unwrap(), ["A", "a/1", "a/2", "b"]);
    }
}
