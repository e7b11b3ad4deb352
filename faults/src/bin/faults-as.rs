//! Runs a command as another user, and with as little room in its pipes as Linux ever gives.
//!
//! ```text
//! faults-as [--user=NAME|ID] [--small-pipes] COMMAND [ARGUMENT]...
//! ```
//!
//! Linux counts the pages of the pipes of a user, and gives one who has 64 MiB of them pipes of 8 KiB. So the tests run
//! with such pipes, and know nothing of it, while this holds as many large ones.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("faults-as: {error}");
            ExitCode::from(UNABLE)
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> io::Result<ExitCode> {
    let mut args = args.peekable();
    if let Some(user) = args.peek().and_then(|arg| arg.strip_prefix("--user=")) {
        let (uid, gid) = ids_of(user)?;
        args.next();
        // Pipes count for who makes them: so it starts again as that user.
        let this = std::env::current_exe()?;
        return Err(Command::new(this).args(args).uid(uid).gid(gid).exec());
    }
    let small = args.next_if_eq("--small-pipes").is_some();
    let Some(program) = args.next() else {
        return Err(io::Error::other("which command is to be run?"));
    };
    let mut command = Command::new(program);
    command.args(args);
    let _held = if small { use_up_pipes()? } else { Vec::new() };
    if small {
        command.env("PLUG_FAULTS_PIPES", SMALL.to_string());
    }
    let status = command.status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX).into())
}

/// The ids of a user: from `/etc/passwd`, unless it is an id.
fn ids_of(user: &str) -> io::Result<(u32, u32)> {
    if let Ok(id) = user.parse() {
        return Ok((id, id));
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let ids = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields[..] else { return None };
        (name == user).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    });
    ids.ok_or_else(|| io::Error::other(format!("there is no user {user:?} in /etc/passwd")))
}

/// Makes large pipes until a new one is small.
fn use_up_pipes() -> io::Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    for _ in 0..AT_MOST {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        if fcntl_getpipe_size(&writer)? <= SMALL {
            return Ok(held);
        }
        // Refused once the allowance is nearly used up: then those of the usual size use up the rest.
        let _ = fcntl_setpipe_size(&writer, LARGE);
        held.extend([reader, writer]);
    }
    Err(io::Error::other(format!(
        "{AT_MOST} pipes of {LARGE} bytes are allowed, so none is small: is this user privileged?"
    )))
}

/// The exit code for what is no result of the command.
const UNABLE: u8 = 125;

/// What a pipe holds once its user has too many.
const SMALL: usize = 8192;

/// What a pipe may hold that any user makes.
const LARGE: usize = 1 << 20;

/// Well over the allowance, and within the usual limit of open files.
const AT_MOST: usize = 400;
