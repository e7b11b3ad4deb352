//! The plugin of `chaos` and `soak`.

use std::path::Path;
use std::time::Duration;

use plug_faults::chaos::plugin::Worker;
use plug_faults::evil;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

fn main() -> plug::Result<()> {
    // Crashes are what it is for: they leave no core files behind.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["linger"] || args == ["survive"] {
        if args == ["survive"] {
            rustix::process::setsid().map_err(std::io::Error::from)?;
        }
        // Not for ever, should a test forget it.
        std::thread::sleep(evil::HANG);
        return Ok(());
    }
    let Some((notes, options)) = args.split_first() else {
        return Err(
            "usage: chaos-plugin NOTES [--die-after=MICROSECONDS] [--child=linger|survive]".into(),
        );
    };
    for option in options {
        match option.split_once('=') {
            Some(("--die-after", micros)) => {
                let after = Duration::from_micros(micros.parse()?);
                std::thread::spawn(move || {
                    std::thread::sleep(after);
                    evil::kill_self(Signal::KILL)
                });
            }
            // In the same process group, or in a session of its own; it inherits stdio.
            Some(("--child", how)) => drop(evil::Evil::default().start_child(how)?),
            _ => return Err(format!("there is no option {option:?}").into()),
        }
    }
    plug::run(Worker::new(Path::new(notes))?)
}
