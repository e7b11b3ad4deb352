//! The programs that belong to this one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

pub fn own() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

/// The other side of a candidate, which lies beside this program.
pub fn of_child(name: &str) -> Result<PathBuf> {
    let program = own()?.with_file_name(format!("child-{name}"));
    ensure!(
        program.is_file(),
        "{} is missing: cargo run builds it, or cargo build",
        program.display()
    );
    Ok(program)
}

/// Has cargo build the programs of children. Without cargo, which says that it has started this program, they are taken as
/// they are.
pub fn build(children: &BTreeSet<&str>) -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let own = own()?;
    let target = own.ancestors().nth(2).context("this program is in no folder of cargo's")?;
    let mut build = Command::new(cargo);
    build.args(["build", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    build.arg("--target-dir").arg(target);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    if !cfg!(feature = "peers") {
        build.arg("--no-default-features");
    }
    for name in children {
        build.args(["--bin", &format!("child-{name}")]);
    }
    ensure!(build.status()?.success(), "cargo cannot build the programs of the other sides");
    Ok(())
}
