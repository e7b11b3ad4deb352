//! A host for both plugins of the example: a small command, and a tour of what a plugin can do to its host.

mod args;
mod audit;
mod commands;
mod terminal;
mod tour;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use args::Action;
use terminal::Terminal;

fn main() -> ExitCode {
    let action = match args::parse(std::env::args_os().skip(1)) {
        Ok(action) => action,
        Err(mistake) => {
            eprintln!("host: {mistake}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_has_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The readable report of a plug::Error is its Debug, with what the plugin printed last; anyhow's own
            // would leave that out.
            match error.downcast::<plug::Error>() {
                Ok(error) => eprintln!("host: {error:?}"),
                Err(error) => eprintln!("host: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> anyhow::Result<()> {
    let mut terminal = Terminal::new();
    match action {
        Action::Tour => tour::run(&mut terminal),
        Action::Help => Ok(terminal.text(args::USAGE)?),
        Action::Put { directory, key, value } => {
            commands::put(&mut terminal, directory, &key, value)
        }
        Action::Get { directory, key } => commands::get(&mut terminal, directory, &key),
        Action::Marshal { values } => commands::marshal(&mut terminal, values),
    }
}

/// Whether writing to stdout failed because nobody reads it: `host | head -1` is no failure.
fn reader_has_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The path of a plugin's program. Cargo puts them beside the host's.
fn plugin(name: &str) -> anyhow::Result<PathBuf> {
    let host = std::env::current_exe().context("cannot find out where this program is")?;
    let path = host.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        bail!("there is no {}. This builds it: cargo build -p plug-example", path.display());
    }
    Ok(path)
}
