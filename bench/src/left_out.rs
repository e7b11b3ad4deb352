//! What is not measured, and why.

use crate::work::Work;

#[derive(Default)]
pub struct LeftOut {
    lines: Vec<Line>,
}

struct Line {
    candidate: String,
    works: Vec<&'static str>,
    why: String,
}

impl LeftOut {
    /// No work: all of them.
    pub fn add(&mut self, candidate: &str, work: Option<Work>, why: &str) {
        let same = |line: &&mut Line| line.candidate == candidate && line.why == why;
        if let Some(line) = self.lines.iter_mut().find(same) {
            line.works.extend(work.map(Work::name));
        } else {
            let works = work.map(Work::name).into_iter().collect();
            self.lines.push(Line { candidate: candidate.to_owned(), works, why: why.to_owned() });
        }
    }

    pub fn print(&self) {
        if !self.lines.is_empty() {
            println!("\nleft out:\n{}", self.text());
        }
    }

    fn text(&self) -> String {
        let text = |line: &Line| match line.works.join(", ") {
            works if works.is_empty() || line.works.len() == Work::ALL.len() => {
                format!("  {}: {}", line.candidate, line.why)
            }
            works => format!("  {} ({works}): {}", line.candidate, line.why),
        };
        self.lines.iter().map(text).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_that_lack_for_the_same_reason_are_one_line() {
        let mut left_out = LeftOut::default();
        left_out.add("tarpc", Some(Work::Stream64), "no streams");
        left_out.add("shm", Some(Work::Stream64), "no streams");
        left_out.add("tarpc", Some(Work::Stream64K), "no streams");
        left_out.add("tonic", None, "not built");
        let expected = "  tarpc (stream64, stream64k): no streams\n  shm (stream64): no streams\n  tonic: not built";
        assert_eq!(left_out.text(), expected);
    }
}
