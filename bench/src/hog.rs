//! A program that takes all that it gets of its core, beside those that are measured.

use std::hint::black_box;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::candidates::child::{Kept, end_with_parent};
use crate::program;

/// The argument with which this program is that.
pub const HOG: &str = "--be-a-hog";

/// Starts it, on the cores of this thread, until the result is dropped.
pub fn start() -> Result<Kept> {
    let hog = Command::new(program::own()?).arg(HOG).spawn();
    Ok(Kept(hog.context("cannot start a program beside those that are measured")?))
}

/// Never returns, but for an error.
pub fn run() -> Result<()> {
    end_with_parent()?;
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}
