//! The plugin that lives and dies here.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, exit};
use std::time::Duration;

use plug::{Call, Peer, Proxy as _, Stream};
use rustix::process::Signal;

use super::{HomeProxy, ID, Piece, Total, Work, WorkService, current_id, pieces};
use crate::evil::kill_self;

/// The plugin.
#[derive(Debug)]
pub struct Worker {
    notes: File,
    /// What identifies the pipe to the host.
    output: u64,
}

impl Worker {
    /// One that writes the numbers of the calls that it serves into a file. It must be made before `plug::run`, which
    /// takes stdout.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn new(notes: &Path) -> io::Result<Worker> {
        let notes = File::options().append(true).create(true).open(notes)?;
        Ok(Worker { notes, output: rustix::fs::fstat(io::stdout())?.st_ino })
    }

    /// Writes down that this call is served, before anything else of it is.
    fn note(&self) -> plug::Result<u64> {
        let id = current_id()?;
        (&self.notes).write_all(&id.to_le_bytes())?;
        Ok(id)
    }

    /// The pipe to the host, which the runtime writes to as well.
    fn output(&self) -> io::Result<File> {
        for entry in fs::read_dir("/proc/self/fd")? {
            let path = entry?.path();
            // The one that reads the directory is closed by now.
            if fs::metadata(&path).is_ok_and(|target| target.ino() == self.output) {
                return File::options().write(true).open(path);
            }
        }
        Err(io::Error::other("the pipe to the host is not there"))
    }
}

impl plug::Plugin for Worker {
    type Services = WorkService;

    const NAME: &'static str = "chaos-plugin";
}

impl Work for Worker {
    fn echo(&self, payload: Vec<u8>) -> plug::Result<Vec<u8>> {
        self.note()?;
        Ok(payload)
    }

    fn count(&self, items: u64, size: u64) -> plug::Result<Stream<Piece>> {
        self.note()?;
        Ok(Stream::new(pieces(items, size)))
    }

    fn sum(&self, requests: Stream<Piece>) -> plug::Result<Total> {
        self.note()?;
        total(requests)
    }

    fn mirror(&self, requests: Stream<Piece>) -> plug::Result<Stream<Piece>> {
        self.note()?;
        Ok(requests)
    }

    fn ask(&self, payload: Vec<u8>) -> plug::Result<Vec<u8>> {
        let id = self.note()?;
        home(id)?.answer(payload)
    }

    fn fetch(&self, items: u64, size: u64) -> plug::Result<Total> {
        let id = self.note()?;
        total(home(id)?.feed(items, size)?)
    }

    fn nap(&self, milliseconds: u32) -> plug::Result<()> {
        self.note()?;
        Call::current().wait_cancelled(Duration::from_millis(milliseconds.into()));
        Ok(())
    }

    fn print(&self, lines: u32) -> plug::Result<()> {
        self.note()?;
        for line in 0..lines {
            println!("line {line} on stdout");
            eprintln!("line {line} on stderr");
        }
        Ok(())
    }

    fn tell(&self, _: Vec<u8>) -> plug::Result<()> {
        self.note()?;
        Ok(())
    }

    fn end(&self, how: String) -> plug::Result<()> {
        self.note()?;
        match how.as_str() {
            "exit" => exit(0),
            "abort" => std::process::abort(),
            "segfault" => kill_self(Signal::SEGV),
            // Not for ever, should a test forget it.
            "hang" => {
                std::thread::sleep(crate::evil::HANG);
                Ok(())
            }
            // A frame of 64 bytes, of which no field can be decoded, should anybody send the other 62.
            "half-frame" => {
                self.output()?.write_all(&[64, 0x07])?;
                kill_self(Signal::KILL)
            }
            // What the runtime has open is closed, and the process lives on.
            "close-output" => {
                Err(Command::new(std::env::current_exe()?).arg("linger").exec().into())
            }
            other => Err(format!("there is no end {other:?}").into()),
        }
    }
}

/// The host, for a call back with the number of the call that it is made in.
fn home(id: u64) -> plug::Result<HomeProxy> {
    let host: Option<Peer> = Call::current().peer();
    let home: HomeProxy = host.ok_or("there is no host")?.proxy()?;
    Ok(home.with_metadata(ID, id.to_le_bytes().to_vec()))
}

fn total(pieces: Stream<Piece>) -> plug::Result<Total> {
    let mut total = Total::default();
    for piece in pieces {
        total.items += 1;
        total.bytes += piece?.payload.len() as u64;
    }
    Ok(total)
}
