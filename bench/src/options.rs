//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::{Arg, Parser, ValueExt as _};

use crate::work::Work;

pub const HELP: &str = "\
Measures plug beside a raw pipe, raw shared memory and its peers, in interleaved rounds of one run.

cargo run --release --manifest-path bench/Cargo.toml -- [options]

  --one-core       all processes on one core: the length of the code path, without the wake-ups of other cores
  --hog            the same, beside a program that takes all that it gets of that core (fault case M7)
  --quick          few rounds, to see that everything works; its figures are worth little
  --only NAMES     these works and candidates, comma separated; the raw pipe is measured with them in any case
  --csv FILE       writes the results
  --compare FILE   compares with the results in FILE, which an earlier run has written
  --readme         writes the table of README.md and the plots docs/speed-*.svg; needs a whole run
  --instructions   counts the instructions of a call under valgrind instead, and fails if they are too many
";

pub struct Options {
    pub one_core: bool,
    pub hog: bool,
    pub quick: bool,
    pub readme: bool,
    pub instructions: bool,
    pub only: Only,
    pub csv: Option<PathBuf>,
    pub compare: Option<PathBuf>,
}

/// What `--only` names. Nothing named is everything.
#[derive(Default)]
pub struct Only {
    works: Vec<Work>,
    candidates: Vec<String>,
}

impl Options {
    /// None if the user asks for help.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        candidates: &[&str],
    ) -> Result<Option<Options>> {
        let mut options = Options {
            one_core: false,
            hog: false,
            quick: false,
            readme: false,
            instructions: false,
            only: Only::default(),
            csv: None,
            compare: None,
        };
        let mut parser = Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("one-core") => options.one_core = true,
                Arg::Long("hog") => (options.hog, options.one_core) = (true, true),
                Arg::Long("quick") => options.quick = true,
                Arg::Long("readme") => options.readme = true,
                Arg::Long("instructions") => options.instructions = true,
                Arg::Long("only") => options.only.add(&parser.value()?.string()?, candidates)?,
                Arg::Long("csv") => options.csv = Some(parser.value()?.into()),
                Arg::Long("compare") => options.compare = Some(parser.value()?.into()),
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                other => return Err(other.unexpected().into()),
            }
        }
        let is_usual = !options.quick && !options.hog && options.only.is_everything();
        if options.readme && !is_usual {
            bail!("--readme is for a whole run: without --quick, --hog and --only");
        }
        Ok(Some(options))
    }
}

impl Only {
    pub fn has_work(&self, work: Work) -> bool {
        self.works.is_empty() || self.works.contains(&work)
    }

    pub fn has_candidate(&self, name: &str) -> bool {
        self.candidates.is_empty() || self.candidates.iter().any(|only| only == name)
    }

    fn is_everything(&self) -> bool {
        self.works.is_empty() && self.candidates.is_empty()
    }

    fn add(&mut self, names: &str, candidates: &[&str]) -> Result<()> {
        for name in names.split(',') {
            if let Some(&work) = Work::ALL.iter().find(|work| work.name() == name) {
                self.works.push(work);
            } else if candidates.contains(&name) {
                self.candidates.push(name.to_owned());
            } else {
                let works: Vec<_> = Work::ALL.iter().map(|work| work.name()).collect();
                let (works, candidates) = (works.join(", "), candidates.join(", "));
                bail!("there is no {name}; works: {works}; candidates: {candidates}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Option<Options>> {
        Options::parse(arguments.split_whitespace().map(OsString::from), &["pipe", "plug"])
    }

    #[test]
    fn only_takes_works_and_candidates_in_one_list() {
        let only = parse("--only echo64,plug --only start").unwrap().unwrap().only;
        assert!(only.has_work(Work::Echo64) && only.has_work(Work::Start));
        assert!(!only.has_work(Work::Echo1M));
        assert!(only.has_candidate("plug") && !only.has_candidate("pipe"));
    }

    #[test]
    fn only_works_named_leave_all_candidates() {
        let only = parse("--only echo64").unwrap().unwrap().only;
        assert!(only.has_candidate("plug") && only.has_candidate("pipe"));
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_with_those_that_do() {
        let error = parse("--only echo65").err().unwrap().to_string();
        assert!(error.contains("echo65") && error.contains("echo64-x32"), "{error}");
    }

    #[test]
    fn a_hog_has_the_one_core_that_is_measured() {
        assert!(parse("--hog").unwrap().unwrap().one_core);
    }

    #[test]
    fn the_readme_gets_no_figures_of_a_part_or_of_a_quick_run() {
        assert!(parse("--readme --quick").is_err());
        assert!(parse("--readme --only echo64").is_err());
        assert!(parse("--readme --hog").is_err());
        assert!(parse("--readme --one-core").unwrap().unwrap().readme);
    }
}
