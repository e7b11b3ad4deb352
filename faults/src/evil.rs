//! A plugin with the runtime, that does what it is told, good or bad.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use crate::{Adder, AdderService, Again, AgainService, Probe, ProbeService};

/// The plugin.
#[derive(Debug, Default)]
pub struct Evil {
    /// Processes that it has started.
    pub children: Mutex<Vec<u32>>,
    /// What it writes when it stops in good order.
    pub stop_file: Option<PathBuf>,
    /// What its start fails with.
    pub start_error: Option<String>,
    /// How many bytes of memory it takes as it starts.
    pub start_takes: usize,
    /// Where its start says that it has begun, and waits to go on.
    pub announce_in_start: Option<PathBuf>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    /// How many handlers run, the most at once, and all together.
    running: usize,
    most: usize,
    came: usize,
    bloat: Vec<u8>,
}

impl plug::Plugin for Evil {
    type Services = (ProbeService, AdderService, AgainService);

    const NAME: &'static str = "evil";
    const VERSION: &'static str = "6.6.6";

    fn start(&self, _host: &plug::Peer) -> plug::Result<()> {
        if let Some(file) = &self.announce_in_start {
            announce(file)?;
        }
        std::hint::black_box(vec![1_u8; self.start_takes]);
        match &self.start_error {
            Some(error) => Err(error.as_str().into()),
            None => Ok(()),
        }
    }

    fn stop(&self) {
        if let Some(file) = &self.stop_file {
            fs::write(file, "stopped").expect("the stop file can be written");
        }
    }
}

impl Adder for Evil {
    fn add(&self, a: i64, b: i64) -> plug::Result<i64> {
        Ok(a.wrapping_add(b))
    }
}

impl Again for Evil {
    fn redo(&self, what: String) -> plug::Result<String> {
        self.act_so(&what)
    }

    fn look(&self, what: String) -> plug::Result<String> {
        self.act_so(&what)
    }
}

impl Probe for Evil {
    fn echo(&self, payload: Vec<u8>) -> plug::Result<Vec<u8>> {
        Ok(payload)
    }

    fn sleep(&self, milliseconds: u32) -> plug::Result<()> {
        std::thread::sleep(Duration::from_millis(milliseconds.into()));
        Ok(())
    }

    fn act(&self, what: String) -> plug::Result<String> {
        let mut gate = self.gate();
        gate.running += 1;
        gate.came += 1;
        gate.most = gate.most.max(gate.running);
        drop(gate);
        self.changed.notify_all();
        let said = self.act_so(&what);
        self.gate().running -= 1;
        said
    }
}

impl Evil {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act_so(&self, what: &str) -> plug::Result<String> {
        let (verb, rest) = what.split_once(' ').unwrap_or((what, ""));
        let number = || rest.parse::<usize>();
        let mut said = "done".to_owned();
        match verb {
            // Ends
            "panic" => panic!("{rest}"),
            "exit" => exit(rest.parse()?),
            "abort" => std::process::abort(),
            "segfault" => kill_self(Signal::SEGV),
            "overflow" => said = overflow(1).to_string(),

            // It dies of it, each time or the first time; the file has a line for each.
            "die-of" => {
                append(rest)?;
                exit(7)
            }
            "die-once-of" => {
                let times = append(rest)?;
                if times == 1 {
                    exit(7);
                }
                said = times.to_string();
            }
            "die-once-and-tell-the-time-left" => {
                if append(rest)? == 1 {
                    exit(7);
                }
                let left = plug::Call::current().remaining().ok_or("there is no deadline")?;
                said = left.as_micros().to_string();
            }

            // Hangs, none of them for ever
            "hang" => std::thread::sleep(HANG),
            "nap" => std::thread::sleep(Duration::from_millis(rest.parse()?)),
            "spin" => {
                let begin = Instant::now();
                let at_most = rest.parse().map_or(HANG, Duration::from_millis);
                while begin.elapsed() < at_most {
                    std::hint::spin_loop();
                }
            }
            "block" => {
                // The reader is kept, so this blocks.
                let (_reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(io::Error::from)?;
                fs::File::from(writer).write_all(&vec![0; 4 << 20])?;
            }
            // Until there is such a file, which it takes away.
            "await" => {
                wait_for(|| fs::exists(rest))?;
                fs::remove_file(rest)?;
            }
            // It is a host as well, of another like itself.
            "load" => {
                let other = crate::load_probe(std::env::current_exe()?)?;
                return other.act(rest);
            }
            // The process becomes another program.
            "exec" => return Err(Command::new("/bin/sleep").arg(rest).exec().into()),
            // So many MiB that it really uses.
            "bloat" => self.gate().bloat = vec![1; number()? << 20],
            "no-more-threads" => {
                let none = Rlimit { current: Some(0), maximum: Some(0) };
                setrlimit(Resource::Nproc, none).map_err(io::Error::from)?;
            }
            // As many as there are.
            "no-more-files" => {
                let first = first_free_descriptor()?;
                let limit = Rlimit { current: Some(first), maximum: Some(first) };
                setrlimit(Resource::Nofile, limit).map_err(io::Error::from)?;
            }
            "no-large-files" => {
                let limit = Rlimit { current: Some(4 << 10), maximum: Some(4 << 10) };
                setrlimit(Resource::Fsize, limit).map_err(io::Error::from)?;
            }
            "running" => said = self.gate().running.to_string(),
            "meet" => {
                let wanted = number()?;
                let gate = self.gate();
                let waited = self.changed.wait_timeout_while(gate, HANG, |gate| gate.came < wanted);
                if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
                    return Err("not everybody came".into());
                }
            }
            "most" => said = self.gate().most.to_string(),

            // What there is too little of
            "allocate" => {
                let mut memory = Vec::<u8>::new();
                memory.try_reserve_exact(number()?).map_err(|error| error.to_string())?;
            }
            "leak" => loop {
                // Filled, so that it is not only reserved.
                std::mem::forget(vec![1_u8; 1 << 20]);
            },
            "open" => {
                let mut files = Vec::new();
                for _ in 0..number()? {
                    files.push(fs::File::open("/dev/null")?);
                }
            }
            "limit" => {
                let limits = fs::read_to_string("/proc/self/limits")?;
                said = limits.lines().find(|line| line.starts_with(rest)).unwrap_or("").to_owned();
            }

            // Output and input
            "print" => println!("{rest}"),
            "eprint" => eprintln!("{rest}"),
            "write" => {
                rustix::io::write(io::stdout(), format!("{rest}\n").as_bytes())
                    .map_err(io::Error::from)?;
            }
            "child-print" => {
                let script = format!("echo '{rest}'; printf 'and %s\\n' '{rest}'");
                Command::new("/bin/sh").args(["-c", &script]).status()?;
            }
            "read" => {
                let mut text = Vec::new();
                io::stdin().read_to_end(&mut text)?;
                said = text.len().to_string();
            }
            "bytes" => {
                io::stderr().write_all(b"nul \0, bad \xff\xfe, red \x1b[31m, bell \x07\n")?
            }
            "line" => {
                io::stderr().write_all(&[&vec![b'l'; number()? << 20][..], b"\n"].concat())?
            }
            "spew" => {
                // 1 MiB in lines of 64 bytes, so often; says what the longest write took.
                let mut block = Vec::new();
                while block.len() < 1 << 20 {
                    block.extend_from_slice(&[b's'; 63]);
                    block.push(b'\n');
                }
                let mut longest = Duration::ZERO;
                for _ in 0..number()? {
                    for piece in block.chunks(16 << 10) {
                        let begin = Instant::now();
                        io::stderr().write_all(piece)?;
                        longest = longest.max(begin.elapsed());
                    }
                }
                said = longest.as_micros().to_string();
            }

            // Surroundings
            "env" => {
                let names: Vec<_> = std::env::vars_os()
                    .map(|(name, _)| name.to_string_lossy().into_owned())
                    .collect();
                said = names.join("\n");
            }
            "var" => said = std::env::var(rest).unwrap_or_default(),
            "exe" => said = fs::read("/proc/self/exe")?.len().to_string(),
            "where" => said = std::env::current_dir()?.display().to_string(),
            "fds" => said = fds()?,
            "child-fds" => {
                let child = Command::new(std::env::current_exe()?)
                    .arg("fds")
                    .stderr(Stdio::inherit())
                    .output()?;
                said = String::from_utf8(child.stdout)?;
            }
            "inheriting-child-fds" => {
                // All three inherited; the child says on stderr what it has.
                Command::new(std::env::current_exe()?).arg("fds-to-stderr").status()?;
            }
            "child" => said = self.start_child(rest)?.to_string(),
            "children" => {
                let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
                let children: Vec<_> = children.iter().map(u32::to_string).collect();
                said = children.join(" ");
            }
            other => return Err(format!("there is no act {other:?}").into()),
        }
        Ok(said)
    }

    /// Starts a process that inherits all of stdio and outlives this one: `linger` in the same process group,
    /// `survive` in a session of its own.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or does not begin its session.
    pub fn start_child(&self, how: &str) -> io::Result<u32> {
        let child = Command::new(std::env::current_exe()?).arg(how).spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        if how == "survive" {
            let begin = Instant::now();
            // Its group, which a session brings too: the id of a session may be 0 in a PID namespace, and that panics.
            while rustix::process::getpgid(Some(pid)).is_ok_and(|group| group != pid) {
                if begin.elapsed() > Duration::from_secs(20) {
                    return Err(io::Error::other("the survivor has no session of its own"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        Ok(child.id())
    }
}

/// Writes this process's id into a file, and waits until somebody has written something else.
///
/// # Errors
///
/// If the file cannot be written or read, or nobody does.
pub fn announce(file: impl AsRef<Path>) -> io::Result<()> {
    let (file, id) = (file.as_ref(), std::process::id().to_string());
    // At once, for who reads it.
    let new = file.with_extension("new");
    fs::write(&new, &id)?;
    fs::rename(&new, file)?;
    wait_for(|| Ok(fs::read_to_string(file)? != id))
}

fn wait_for(mut happened: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let begin = Instant::now();
    while !happened()? {
        if begin.elapsed() > HANG {
            return Err(io::Error::other("it never happened"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Adds a line with the id of this process to a file, and returns how many lines it has then.
///
/// # Errors
///
/// If it cannot be written.
pub fn append(file: &str) -> io::Result<usize> {
    let mut opened = fs::File::options().create(true).append(true).open(file)?;
    writeln!(opened, "{}", std::process::id())?;
    Ok(fs::read_to_string(file)?.lines().count())
}

/// Ends this process with a signal.
pub fn kill_self(signal: Signal) -> ! {
    loop {
        // Rust handles the first SIGSEGV itself, and restores the default.
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
}

/// Has both pipes of the protocol hold so many bytes, or as many as this user may have.
///
/// # Errors
///
/// If the system does not allow it.
pub fn resize_pipes(bytes: usize) -> io::Result<()> {
    resize_pipe(io::stdin(), bytes)?;
    resize_pipe(io::stdout(), bytes)
}

/// Has a pipe hold so many bytes, or as many as this user may have.
///
/// # Errors
///
/// If the system does not allow it.
pub fn resize_pipe(pipe: impl AsFd, bytes: usize) -> io::Result<()> {
    match rustix::pipe::fcntl_setpipe_size(pipe, bytes) {
        // A user with many pipes gets small ones, and may not make them larger.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How many bytes a pipe holds that this process makes now.
///
/// # Errors
///
/// If it may not make any.
pub fn pipe_size() -> io::Result<usize> {
    let (_reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok(rustix::pipe::fcntl_getpipe_size(writer)?)
}

/// What this process has open: a line for each descriptor, `number target`.
///
/// # Errors
///
/// Without `/proc`.
pub fn fds() -> io::Result<String> {
    let mut open = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        // The one that reads the directory is closed by now.
        if let (Some(number), Ok(target)) = (number, fs::read_link(&path)) {
            open.insert(number, target.display().to_string());
        }
    }
    open.retain(|_, target| !target.starts_with("/proc/"));
    Ok(open.iter().map(|(number, target)| format!("{number} {target}\n")).collect())
}

#[expect(unconditional_recursion, reason = "as asked")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    overflow(frame[0] + 1) + frame[63]
}

/// How long a handler hangs: longer than any test waits, shorter than for ever.
pub const HANG: Duration = Duration::from_secs(100);

/// The lowest number that no descriptor has, as the next one would.
fn first_free_descriptor() -> io::Result<u64> {
    use std::os::fd::AsRawFd as _;
    Ok(fs::File::open("/dev/null")?.as_raw_fd().unsigned_abs().into())
}
