//! Chaos: plugins that end violently at random points of mixed traffic, beside an innocent neighbour.
//!
//! A [`Life`](life::Life) is that of one plugin: it is loaded, called from several threads in every way there is, and
//! ended in one of the ways of [`Violence`](violence::Violence). The [`Ledger`](ledger::Ledger) knows each call, how it
//! ended, and from the plugin's own notes whether it ran. What the lives leave behind in the host is counted by the
//! [`Arena`](arena::Arena), in which some of them happen at once. [`kills`], [`hosts`] and [`soak`] ask
//! what comes of that, for the binaries `chaos` and `soak`.
//!
//! All choices come from a seed, which every report names. The points in time do not: a seed gives the same plan again,
//! not the same schedule.

pub mod arena;
pub mod dice;
pub mod histogram;
pub mod hosts;
pub mod kills;
pub mod ledger;
pub mod life;
pub mod neighbour;
pub mod plugin;
pub mod samples;
pub mod soak;
pub mod supervised;
pub mod traffic;
pub mod violence;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use plug::{Call, Code, Error, Stream};

plug::include_proto!("chaos");

/// Pieces with increasing numbers.
pub fn pieces(items: u64, size: u64) -> impl Iterator<Item = Piece> + Send {
    (0..items).map(move |number| Piece { number, payload: vec![number as u8; size as usize] })
}

/// The key of the metadata in which a call has its number.
pub const ID: &str = "id";

/// The number of the call that is being served.
fn current_id() -> plug::Result<u64> {
    let value = Call::current().metadata(ID);
    let bytes = value.and_then(|value| <[u8; 8]>::try_from(&value[..]).ok());
    bytes.map(u64::from_le_bytes).ok_or_else(|| Error::new(Code::InvalidArgument, "no number"))
}

/// What a host offers to its plugins.
#[derive(Debug, Default)]
pub struct House {
    served: Mutex<BTreeSet<u64>>,
}

impl House {
    /// Notes a call back. Each is made once, and so must come once.
    fn note(&self) -> plug::Result<()> {
        let id = current_id()?;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if served.insert(id) { Ok(()) } else { Err(Error::new(Code::AlreadyExists, TWICE)) }
    }
}

/// What a call back fails with that came before.
pub const TWICE: &str = "this call back came twice";

impl Home for House {
    fn answer(&self, payload: Vec<u8>) -> plug::Result<Vec<u8>> {
        self.note()?;
        Ok(payload)
    }

    fn feed(&self, items: u64, size: u64) -> plug::Result<Stream<Piece>> {
        self.note()?;
        Ok(Stream::new(pieces(items, size)))
    }
}

/// Where the plugin is: beside the program that asks.
pub fn plugin_path() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("chaos-plugin")
}

/// Starts this program again, with an allocator that gives back what is freed. Otherwise what glibc keeps for later, in
/// an arena for each thread, hides what is lost.
pub fn give_back_freed_memory() {
    let settings = [
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ];
    if settings.iter().all(|&(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    let own = std::env::current_exe().unwrap_or_default();
    let error = Command::new(own).args(std::env::args_os().skip(1)).envs(settings).exec();
    eprintln!(
        "cannot start again with another setting of malloc, so memory may seem to grow: {error}"
    );
}

/// Prints what came of a run. What was wrong, or how to use the program, goes to stderr.
pub fn conclude(ran: Option<Result<String, String>>, usage: &str) -> ExitCode {
    match ran {
        Some(Ok(report)) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Some(Err(wrong)) => {
            eprintln!("FAILED: {wrong}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{usage}");
            ExitCode::from(64)
        }
    }
}

/// A seed that is another each time.
pub fn any_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64 % 1_000_000_007
}
