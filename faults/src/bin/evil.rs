//! A plugin that goes wrong as its arguments say.

use std::time::{Duration, Instant};

use plug::{Incoming, Method, Reply, Serve, Service};
use plug_faults::evil::{self, Evil};
use plug_faults::{Adder, AdderService, EchoRequest, EchoResponse, Probe as _, raw};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> plug::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_none_or(|arg| arg != "--keep-limits") {
        // Crashes are what it is for: they leave no core files behind, whoever has started it.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    }
    match args.first().map(String::as_str) {
        Some("raw") => return Ok(raw::play(&args[1], &args[2..])?),
        Some("--plug-describe") if args.get(1).is_some_and(|arg| arg == "raw") => {
            return Ok(raw::describe(args[3].parse()?)?);
        }
        Some("raw-with-survivor") => {
            // So that the test can end it.
            eprintln!("survivor {}", Evil::default().start_child("survive")?);
            return Ok(raw::play(&args[1], &args[2..])?);
        }
        Some("linger") => return linger(),
        Some("survive") => {
            rustix::process::setsid().map_err(std::io::Error::from)?;
            return linger();
        }
        Some("fds") => {
            print!("{}", evil::fds()?);
            return Ok(());
        }
        Some("fds-to-stderr") => {
            eprint!("{}", evil::fds()?);
            return Ok(());
        }
        _ => {}
    }

    let mut evil = Evil::default();
    let mut clean_up = None;
    let mut starts = 0;
    for arg in &args {
        let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
        match name {
            // Counts how often it is started in that file.
            "--starts" => starts = evil::append(value)?,
            // What follows is for the second start, and for all after that.
            "--later" if starts <= 1 => break,
            "--later" => {}
            "--say" => println!("{value}"),
            "--child" => drop(evil.start_child(value)?),
            "--keep-limits" | "--plug-describe" => {}
            "--limit-files" => {
                let files = Some(value.parse()?);
                let limit = Rlimit { current: files, maximum: files };
                setrlimit(Resource::Nofile, limit).map_err(std::io::Error::from)?;
            }
            "--await-file-limit" => {
                let limit = Some(value.parse()?);
                let begin = Instant::now();
                while getrlimit(Resource::Nofile).current != limit {
                    assert!(begin.elapsed() < evil::HANG, "there is no such limit");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            "--stop-file" => evil.stop_file = Some(value.into()),
            // What it does after its host is done: it takes longer than a plugin may that just goes on.
            "--clean-up" => clean_up = Some(value.to_owned()),
            "--start-takes" => evil.start_takes = value.parse()?,
            "--fail" => evil.start_error = Some(value.to_owned()),
            "--announce-before-hello" => evil::announce(value)?,
            "--announce-in-start" => evil.announce_in_start = Some(value.into()),
            "--slow-start" => std::thread::sleep(Duration::from_millis(value.parse()?)),
            "--pipes" => evil::resize_pipes(value.parse()?)?,
            // What a program built with panic=abort does.
            "--abort-on-panic" => {
                let report = std::panic::take_hook();
                std::panic::set_hook(Box::new(move |info| {
                    report(info);
                    std::process::abort();
                }));
            }
            "--old" => return plug::run(Old(evil)),
            "--other" => return plug::run(Other),
            other => panic!("there is no option {other:?}"),
        }
    }
    plug::run(evil)?;
    if let Some(file) = clean_up {
        std::thread::sleep(Duration::from_millis(800));
        std::fs::write(file, "saved")?;
    }
    Ok(())
}

fn linger() -> plug::Result<()> {
    // Not for ever, should a test forget it.
    std::thread::sleep(evil::HANG);
    Ok(())
}

/// As it was when the service had one method only.
struct Old(Evil);

/// `probe.Probe` in an older `.proto`.
enum OldProbeService {}

impl Service for OldProbeService {
    const NAME: &'static str = "probe.Probe";
    const MAGIC: &'static str = "";
    const VERSION: u32 = 0;
    const METHODS: &'static [Method] = &[Method::unary("Echo")];
    const DESCRIPTORS: &'static [u8] = b"";
}

impl Serve<Old> for OldProbeService {
    fn serve(plugin: &Old, call: Incoming<'_>) -> Reply {
        call.unary(|EchoRequest { payload }| Ok(EchoResponse { payload: plugin.0.echo(payload)? }))
    }
}

impl plug::Plugin for Old {
    type Services = OldProbeService;
}

/// A plugin for something else.
struct Other;

impl Adder for Other {
    fn add(&self, a: i64, b: i64) -> plug::Result<i64> {
        Ok(a.wrapping_add(b))
    }
}

impl plug::Plugin for Other {
    type Services = AdderService;
}
