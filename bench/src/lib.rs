//! Measures plug beside a raw pipe, raw shared memory and its peers, in interleaved rounds of one run.
//!
//! ```sh
//! cargo run --release --manifest-path bench/Cargo.toml -- --help
//! ```
//!
//! Times are those of the machine and its mood; quote the ratios. Every reply is checked. A sample is the time of one
//! call; of calls that overlap and of items of a stream it is the time of many over their number. Medians and 99th
//! percentiles are of all samples, `x_pipe` is the median over the rounds of the ratio of the medians of a round, and the
//! other figures are medians over the rounds: calls over the time that they took (pauses not counted), and the processor
//! time and context switches of both processes over the calls ([`usage`]).
//!
//! Of `memory`, which has KiB in place of microseconds, and its companions `memory-host`, `threads-1` and `threads-100`
//! only the first columns have values.

pub mod children;

mod candidates;
mod cores;
#[cfg(feature = "peers")]
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, dead_code)]
mod echo_capnp;
mod footprint;
mod hog;
mod instructions;
mod left_out;
mod memory;
mod options;
mod program;
mod progress;
mod report;
mod rounds;
mod row;
mod stats;
mod timing;
mod usage;
mod work;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use candidates::Candidate;
use footprint::FOOTPRINT;
use hog::HOG;
use instructions::CALLS;
use left_out::LeftOut;
use options::Options;
use progress::Progress;
use report::{compare, csv, plot, readme, table};
use row::Row;
use work::Work;

/// What the others are compared with.
const BASE: &str = "pipe";

/// The services that are measured: [`Echo`](services::echo::Echo), whose payloads are `Bytes`, and
/// [`Plain`](services::plain::Plain), whose payloads are `Vec<u8>`.
pub mod services {
    plug::include_proto!();
}

/// The program: does what its arguments say.
pub fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [FOOTPRINT, name] => return footprint::print(name),
        [HOG] => return hog::run(),
        [CALLS, calls] => return instructions::call(calls.parse()?),
        _ => {}
    }
    let all = candidates::all();
    let mut names: Vec<_> = all.iter().map(|candidate| candidate.name()).collect();
    names.extend(candidates::built_without());
    let Some(options) = Options::parse(std::env::args_os().skip(1), &names)? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    if options.instructions {
        program::build(&BTreeSet::from([candidates::PLUG]))?;
        return instructions::count();
    }
    // Before it takes minutes to find out that it cannot be read.
    let earlier = options.compare.as_ref().map(|path| csv::read(path)).transpose()?;
    let chosen = |name: &str| name == BASE || options.only.has_candidate(name);
    let chosen = all.iter().filter(|candidate| chosen(candidate.name()));
    program::build(&chosen.filter_map(|candidate| candidate.child()).collect())?;
    if options.one_core {
        let core = *cores::allowed()?.first().context("this process may run on no core")?;
        cores::pin(core)?;
    }
    let hog = options.hog.then(hog::start).transpose()?;
    let rows = measure(&options, &all)?;
    drop(hog);

    if let Some(path) = &options.csv {
        csv::write(path, &rows)?;
    }
    if let Some(earlier) = earlier {
        compare::print(&earlier, &rows);
    }
    if options.readme {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        readme::update(root.as_ref(), &rows, options.one_core)?;
        plot::write(root.as_ref(), &rows, options.one_core)?;
    }
    Ok(())
}

/// Measures all that the options ask for, and prints it as it comes.
fn measure(options: &Options, all: &[Box<dyn Candidate>]) -> Result<Vec<Row>> {
    let progress = Progress::new();
    let mut rows = Vec::new();
    let mut left_out = LeftOut::default();
    for name in candidates::built_without().iter().filter(|name| options.only.has_candidate(name)) {
        left_out.add(name, None, "this program was built without the feature `peers`");
    }
    for work in Work::ALL.into_iter().filter(|&work| options.only.has_work(work)) {
        progress.work(work);
        let mut chosen: Vec<&dyn Candidate> = Vec::new();
        for candidate in all {
            if candidate.name() != BASE && !options.only.has_candidate(candidate.name()) {
                continue;
            }
            match candidate.lacks(work) {
                None => chosen.push(&**candidate),
                Some(why) => left_out.add(candidate.name(), Some(work), &why),
            }
        }
        let of_work = rounds::measure(work, &chosen, options.quick, &progress)?;
        progress.clear();
        table::print(work, &of_work);
        rows.extend(of_work);
        if work == Work::Memory {
            let of_hosts = measure_hosts(&chosen, &progress)?;
            table::print_footprint(&of_hosts);
            rows.extend(of_hosts);
            for foreign in chosen.iter().filter(|candidate| candidate.is_foreign()) {
                left_out.add(
                    foreign.name(),
                    None,
                    "memory-host, threads: its host is not this program",
                );
            }
        }
    }
    left_out.print();
    Ok(rows)
}

fn measure_hosts(chosen: &[&dyn Candidate], progress: &Progress) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for candidate in chosen.iter().filter(|candidate| !candidate.is_foreign()) {
        progress.doing(&format!("{} with 100 children", candidate.name()));
        rows.extend(footprint::measure(*candidate)?);
    }
    progress.clear();
    Ok(rows)
}
